// What the processor offers, asked once per process.
#pragma once

namespace native {

// Instruction sets that both the processor and the operating system support.
struct CpuFeatures {
    bool avx2 = false;        // AVX2 and FMA
    bool avx512 = false;      // AVX-512 F, BW, VL and DQ
    bool avx512bf16 = false;  // the above and AVX512-BF16
    bool amx_bf16 = false;    // the above and AMX-TILE, AMX-BF16, with the kernel's permission for tile data
    bool pclmul = false;      // PCLMULQDQ and SSE4.1
    bool vpclmul = false;     // the above, VPCLMULQDQ and AVX-512 F
};

// The features of this machine. The first call also asks the kernel for permission to use AMX tile data,
// which is granted to the whole process. Thread-safe.
const CpuFeatures& cpu_features();

}  // namespace native
