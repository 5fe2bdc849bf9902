// AVX512-BF16: 24 of the 32 registers hold sums.
#include "ensemble_net_bf16.h"
#include "ensemble_panel.h"
#include "lanes_avx512bf16.h"

namespace native {
namespace {

using Bf16Panels = MixedPanels<Bf16Net<Avx512Bf16, 2, 12>, Bf16Net<Avx512Bf16, 1, 12>>;

}  // namespace

const Variant avx512bf16_variant = {
    "avx512bf16", Precision::bf16,     Layout::bf16_pairs,  Bf16Panels::rows,
    12,           Bf16Panels::rollout, Bf16Panels::predict,
};

}  // namespace native
