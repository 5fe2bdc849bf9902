// AVX-512 with the conversions and the dot product of AVX512-BF16.
#pragma once

#include "lanes_avx512.h"

namespace native {
namespace {

struct Avx512Bf16 : Avx512 {
    // Rounds both to bf16 (nearest even, NaN kept) and stores them lane by lane as (first, second).
    static void store_pairs(std::uint16_t* p, F first, F second) {
        const auto low_high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
        const __m512i interleave =
            _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                             5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        _mm512_store_si512(p, _mm512_permutexvar_epi16(interleave, low_high));
    }

    // sum + x[0] w[0] + x[1] w[1] per lane, for pairs of bf16; w is the same pair in all lanes.
    static F dot_pairs(F sum, I x, I w) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
    }
    static I load_pairs(const std::uint16_t* p) { return _mm512_load_si512(p); }
    static I set_pair(const std::uint16_t* p) {
        int pair;
        __builtin_memcpy(&pair, p, sizeof pair);
        return _mm512_set1_epi32(pair);
    }
};

}  // namespace
}  // namespace native
