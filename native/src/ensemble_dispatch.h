// Which variant runs: the best that the machine has, or the one that was asked for.
#pragma once

#include <optional>
#include <string>

#include "ensemble_kernel.h"
#include "native/cpu.h"

namespace native {

// fp32: AVX-512, AVX2, scalar; bf16: AMX, AVX512-BF16; automatic: bf16 where there is hardware for it, else
// fp32. Throws std::invalid_argument for bf16 without hardware, an unknown isa, one that the machine lacks,
// or one whose precision is not the one asked for.
const Variant& choose_variant(Precision precision, const std::optional<std::string>& isa,
                              const CpuFeatures& cpu);

}  // namespace native
