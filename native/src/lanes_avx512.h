// Sixteen lanes of AVX-512; the meaning of each operation is in lanes_portable.h.
#pragma once

// GCC 12 takes the deliberately undefined operands inside its own AVX-512 intrinsics for mistakes (GCC bug
// 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>

namespace native {
namespace {

struct Avx512 {
    static constexpr int lanes = 16;
    using F = __m512;
    using I = __m512i;

    static F load(const float* p) { return _mm512_load_ps(p); }
    static void store(float* p, F x) { _mm512_store_ps(p, x); }
    static F set(float x) { return _mm512_set1_ps(x); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F reciprocal(F x) { return _mm512_rcp14_ps(x); }
    // One step of Newton.
    static F refined_reciprocal(F x) {
        const F r = reciprocal(x);
        return fma(fnma(x, r, set(1.0F)), r, r);
    }
    static F sqrt(F x) { return _mm512_sqrt_ps(x); }
    static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static constexpr bool saturates = true;
    static F fraction(F t) { return _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
    static F scale(F p, F t) { return _mm512_scalef_ps(p, t); }
    static F select_positive(F x, F a, F b) {
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), b, a);
    }
    static F nan_if_nan(F x, F guard) {
        return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(guard, guard, _CMP_UNORD_Q), guard);
    }

    static I load(const std::uint32_t* p) { return _mm512_load_si512(p); }
    static I set_int(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
    static I add(I a, I b) { return _mm512_add_epi32(a, b); }
    static I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
    static I bit_xor(I a, I b) { return _mm512_xor_si512(a, b); }
    static I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
    static I shift_left(I a, unsigned n) { return _mm512_slli_epi32(a, n); }
    static I shift_right(I a, unsigned n) { return _mm512_srli_epi32(a, n); }
    static I shift_right_signed(I a, unsigned n) { return _mm512_srai_epi32(a, n); }
    static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
    static I to_int(F x) { return _mm512_cvtps_epi32(x); }
    static I bits(F x) { return _mm512_castps_si512(x); }
    static F from_bits(I x) { return _mm512_castsi512_ps(x); }
    static F select_odd(I x, F odd, F even) {
        return _mm512_mask_blend_ps(_mm512_test_epi32_mask(x, set_int(1)), even, odd);
    }
    static void multiply(I a, std::uint32_t b, I& high, I& low) {
        const I factor = set_int(b);
        const I even = _mm512_mul_epu32(a, factor);
        const I odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
        high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
        low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    }
};

}  // namespace
}  // namespace native
