// Eight lanes of AVX2 with FMA; the meaning of each operation is in lanes_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace native {
namespace {

struct Avx2 {
    static constexpr int lanes = 8;
    using F = __m256;
    using I = __m256i;

    static F load(const float* p) { return _mm256_load_ps(p); }
    static void store(float* p, F x) { _mm256_store_ps(p, x); }
    static F set(float x) { return _mm256_set1_ps(x); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F reciprocal(F x) { return _mm256_rcp_ps(x); }
    // One step of Newton.
    static F refined_reciprocal(F x) {
        const F r = reciprocal(x);
        return fma(fnma(x, r, set(1.0F)), r, r);
    }
    static F sqrt(F x) { return _mm256_sqrt_ps(x); }
    static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static constexpr bool saturates = false;
    static F fraction(F t) { return sub(t, _mm256_floor_ps(t)); }
    static F scale(F p, F t) {
        return mul(p, from_bits(shift_left(add(to_int(_mm256_floor_ps(t)), set_int(127)), 23)));
    }
    static F select_positive(F x, F a, F b) {
        return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
    }
    static F nan_if_nan(F x, F guard) { return _mm256_or_ps(x, _mm256_cmp_ps(guard, guard, _CMP_UNORD_Q)); }

    static I load(const std::uint32_t* p) { return _mm256_load_si256(reinterpret_cast<const I*>(p)); }
    static I set_int(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
    static I add(I a, I b) { return _mm256_add_epi32(a, b); }
    static I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
    static I bit_xor(I a, I b) { return _mm256_xor_si256(a, b); }
    static I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
    static I shift_left(I a, int n) { return _mm256_slli_epi32(a, n); }
    static I shift_right(I a, int n) { return _mm256_srli_epi32(a, n); }
    static I shift_right_signed(I a, int n) { return _mm256_srai_epi32(a, n); }
    static F to_float(I a) { return _mm256_cvtepi32_ps(a); }
    static I to_int(F x) { return _mm256_cvtps_epi32(x); }
    static I bits(F x) { return _mm256_castps_si256(x); }
    static F from_bits(I x) { return _mm256_castsi256_ps(x); }
    static F select_odd(I x, F odd, F even) {
        return _mm256_blendv_ps(even, odd, from_bits(shift_left(x, 31)));
    }
    static void multiply(I a, std::uint32_t b, I& high, I& low) {
        const I factor = set_int(b);
        const I even = _mm256_mul_epu32(a, factor);
        const I odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
        high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
        low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    }
};

}  // namespace
}  // namespace native
