// Four lanes in GCC's portable vectors: the scalar variant, and the C++ tests of the bf16 data flow.
// Include in one translation unit's anonymous namespace only through ensemble_panel.h's rules (see there).
#pragma once

#include <cstdint>
#include <cstring>

namespace native {
namespace {

struct Portable {
    static constexpr int lanes = 4;
    typedef float F __attribute__((vector_size(16)));
    typedef std::uint32_t I __attribute__((vector_size(16)));
    typedef std::int32_t Signed __attribute__((vector_size(16)));

    static F load(const float* p) { return *reinterpret_cast<const F*>(p); }
    static void store(float* p, F x) { *reinterpret_cast<F*>(p) = x; }
    static F set(float x) { return F{x, x, x, x}; }
    static F add(F a, F b) { return a + b; }
    static F sub(F a, F b) { return a - b; }
    static F mul(F a, F b) { return a * b; }
    static F fma(F a, F b, F c) { return a * b + c; }   // a b + c
    static F fnma(F a, F b, F c) { return c - a * b; }  // c - a b
    static F max(F a, F b) { return a > b ? a : b; }    // b if either is NaN
    static F min(F a, F b) { return a < b ? a : b; }    // b if either is NaN
    static F reciprocal(F x) { return 1.0F / x; }
    static F refined_reciprocal(F x) { return 1.0F / x; }
    static F sqrt(F x) {
        F root = x;
        for (int i = 0; i < lanes; ++i) root[i] = __builtin_sqrtf(root[i]);
        return root;
    }
    // Nearest even; |x| < 2^22.
    static F round(F x) {
        const F magic = set(12582912.0F);
        return (x + magic) - magic;
    }
    static constexpr bool saturates = false;  // scale() needs -126 <= t < 128
    static F floor(F x) {
        const F nearest = round(x);
        return nearest > x ? nearest - 1.0F : nearest;
    }
    static F fraction(F t) { return t - floor(t); }
    // p 2^floor(t).
    static F scale(F p, F t) { return p * from_bits(shift_left(to_int(floor(t)) + 127U, 23)); }
    static F select_positive(F x, F a, F b) { return x > 0.0F ? a : b; }
    static F nan_if_nan(F x, F guard) { return guard == guard ? x : set(__builtin_nanf("")); }

    static I load(const std::uint32_t* p) { return *reinterpret_cast<const I*>(p); }
    static I set_int(std::uint32_t x) { return I{x, x, x, x}; }
    static I add(I a, I b) { return a + b; }
    static I sub(I a, I b) { return a - b; }
    static I bit_xor(I a, I b) { return a ^ b; }
    static I bit_and(I a, I b) { return a & b; }
    static I shift_left(I a, int n) { return a << n; }
    static I shift_right(I a, int n) { return a >> n; }
    static I shift_right_signed(I a, int n) { return reinterpret_cast<I>(reinterpret_cast<Signed>(a) >> n); }
    static F to_float(I a) { return __builtin_convertvector(reinterpret_cast<Signed>(a), F); }
    static I to_int(F x) { return reinterpret_cast<I>(__builtin_convertvector(x, Signed)); }
    static I bits(F x) { return reinterpret_cast<I>(x); }
    static F from_bits(I x) { return reinterpret_cast<F>(x); }
    static F select_odd(I x, F odd, F even) { return (x & 1U) != 0U ? odd : even; }
    static void multiply(I a, std::uint32_t b, I& high, I& low) {
        for (int i = 0; i < lanes; ++i) {
            const std::uint64_t product = std::uint64_t{a[i]} * b;
            high[i] = static_cast<std::uint32_t>(product >> 32);
            low[i] = static_cast<std::uint32_t>(product);
        }
    }

    // Rounds both to bf16 (nearest even, NaN kept) and stores them lane by lane as (first, second).
    static void store_pairs(std::uint16_t* p, F first, F second) {
        for (int i = 0; i < lanes; ++i) {
            p[2 * i] = round_bf16(first[i]);
            p[2 * i + 1] = round_bf16(second[i]);
        }
    }
    static std::uint16_t round_bf16(float x) {
        std::uint32_t word;
        std::memcpy(&word, &x, sizeof word);
        if ((word & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>(word >> 16 | 0x40U);
        return static_cast<std::uint16_t>((word + 0x7FFFU + (word >> 16 & 1U)) >> 16);
    }
};

}  // namespace
}  // namespace native
