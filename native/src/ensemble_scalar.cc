// The variant that every x86-64 runs, and the reference for the others.
#include "ensemble_net_fp32.h"
#include "ensemble_panel.h"
#include "lanes_portable.h"

namespace native {
namespace {

using ScalarPanels = MixedPanels<Fp32Net<Portable, 2, 4>, Fp32Net<Portable, 1, 4>>;

}  // namespace

const Variant scalar_variant = {
    "scalar", Precision::fp32,       Layout::fp32_blocks,   ScalarPanels::rows,
    4,        ScalarPanels::rollout, ScalarPanels::predict,
};

}  // namespace native
