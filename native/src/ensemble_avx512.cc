// AVX-512 in float32: 24 of the 32 registers hold sums.
#include "ensemble_net_fp32.h"
#include "ensemble_panel.h"
#include "lanes_avx512.h"

namespace native {
namespace {

using Avx512Panels = MixedPanels<Fp32Net<Avx512, 2, 12>, Fp32Net<Avx512, 1, 12>>;

}  // namespace

const Variant avx512_variant = {
    "avx512", Precision::fp32,       Layout::fp32_blocks,   Avx512Panels::rows,
    12,       Avx512Panels::rollout, Avx512Panels::predict,
};

}  // namespace native
