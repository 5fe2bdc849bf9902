// AVX2 with FMA: 12 of the 16 registers hold sums.
#include "ensemble_net_fp32.h"
#include "ensemble_panel.h"
#include "lanes_avx2.h"

namespace native {
namespace {

using Avx2Panels = MixedPanels<Fp32Net<Avx2, 2, 6>, Fp32Net<Avx2, 1, 6>>;

}  // namespace

const Variant avx2_variant = {
    "avx2", Precision::fp32,     Layout::fp32_blocks, Avx2Panels::rows,
    6,      Avx2Panels::rollout, Avx2Panels::predict,
};

}  // namespace native
