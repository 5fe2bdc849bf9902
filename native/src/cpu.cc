#include "native/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace native {
namespace {

constexpr long kArchRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of arch_prctl(2)
constexpr long kTileData = 18;                   // XSAVE component that holds the AMX tiles

bool request_amx_permission() { return syscall(SYS_arch_prctl, kArchRequestPermission, kTileData) == 0; }

// GCC 12 cannot ask __builtin_cpu_supports for AMX: CPUID leaf 7, EDX bit 22 (AMX-BF16) and bit 24
// (AMX-TILE).
bool cpuid_has_amx_bf16() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
    return (edx >> 22 & 1U) != 0 && (edx >> 24 & 1U) != 0;
}

CpuFeatures detect() {
    __builtin_cpu_init();
    CpuFeatures features;
    features.pclmul = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    features.vpclmul =
        features.pclmul && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx512f");
    features.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    features.avx512 = features.avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
    features.avx512bf16 = features.avx512 && __builtin_cpu_supports("avx512bf16");
    features.amx_bf16 = features.avx512bf16 && cpuid_has_amx_bf16() && request_amx_permission();
    return features;
}

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = detect();
    return features;
}

}  // namespace native
