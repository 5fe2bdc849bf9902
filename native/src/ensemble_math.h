// Vector mathematics of the ensemble kernels over a lanes type V: activations, variances, Philox normals.
// Everything is in an anonymous namespace: each variant's file must have its own copy (see
// ensemble_kernel.h). The polynomials are minimax fits, made for these intervals; the comments give their
// relative error.
#pragma once

#include <cstdint>

#include "ensemble_kernel.h"

namespace native {
namespace {

// 2^t, t limited to what a float holds; NaN stays NaN (max and min return their second argument for NaN).
// Relative error 7.5e-8, or 7.5e-5 if coarse, which is enough before a rounding to bf16.
template <class V, bool coarse>
inline typename V::F exp2(typename V::F t) {
    // Coarse code takes no difference of infinities, so lanes whose scale() saturates need no limits at all.
    if constexpr (!coarse || !V::saturates) t = V::min(V::set(126.0F), t);
    if constexpr (!V::saturates) t = V::max(V::set(-126.0F), t);
    const auto f = V::fraction(t);
    typename V::F p;  // 2^f on [0, 1)
    if constexpr (coarse) {
        p = V::set(0.0780245215F);
        p = V::fma(p, f, V::set(0.226067156F));
        p = V::fma(p, f, V::set(0.695833564F));
        p = V::fma(p, f, V::set(0.999925196F));
    } else {
        p = V::set(0.00187757669F);
        p = V::fma(p, f, V::set(0.00898934063F));
        p = V::fma(p, f, V::set(0.0558263175F));
        p = V::fma(p, f, V::set(0.240153611F));
        p = V::fma(p, f, V::set(0.693153083F));
        p = V::fma(p, f, V::set(0.99999994F));
    }
    return V::scale(p, t);
}

constexpr float kLog2E = 1.44269504F;

// e^x; the rounding of the exponent adds |x| 4e-8 to the relative error.
template <class V>
inline typename V::F exponential(typename V::F x) {
    return exp2<V, false>(V::mul(x, V::set(kLog2E)));
}

// 1 / (1 + e^(-factor x)).
template <class V, bool coarse = false>
inline typename V::F sigmoid(typename V::F x, float factor = 1.0F) {
    const auto denominator = V::add(V::set(1.0F), exp2<V, coarse>(V::mul(x, V::set(-kLog2E * factor))));
    return coarse ? V::reciprocal(denominator) : V::refined_reciprocal(denominator);
}

// coarse: relative error 2e-4 instead of 1e-6, for values that are rounded to bf16 next. tanh has an absolute
// error.
template <class V, Activation activation, bool coarse>
inline typename V::F activate(typename V::F x) {
    if constexpr (activation == Activation::relu) {
        return V::max(V::set(0.0F), x);
    } else if constexpr (activation == Activation::silu) {
        return V::mul(x, sigmoid<V, coarse>(x));
    } else if constexpr (activation == Activation::tanh) {
        return V::fma(V::set(2.0F), sigmoid<V, coarse>(x, 2.0F), V::set(-1.0F));
    } else {
        return V::select_positive(x, x, V::sub(exponential<V>(x), V::set(1.0F)));
    }
}

// ln u for u in (0, 1], no denormals.
template <class V>
inline typename V::F logarithm(typename V::F u) {
    const auto bits = V::bits(u);
    // Exponent that leaves the mantissa in [sqrt(1/2), sqrt(2)).
    const auto exponent = V::shift_right_signed(V::sub(bits, V::set_int(0x3F3504F3U)), 23);
    const auto t = V::sub(V::from_bits(V::sub(bits, V::shift_left(exponent, 23))), V::set(1.0F));
    auto p = V::set(0.0872235522F);  // log1p(t) / t on [sqrt(1/2) - 1, sqrt(2) - 1], 2.6e-8
    p = V::fma(p, t, V::set(-0.143668428F));
    p = V::fma(p, t, V::set(0.149522662F));
    p = V::fma(p, t, V::set(-0.165623933F));
    p = V::fma(p, t, V::set(0.199568331F));
    p = V::fma(p, t, V::set(-0.250020742F));
    p = V::fma(p, t, V::set(0.333341867F));
    p = V::fma(p, t, V::set(-0.499999881F));
    p = V::fma(p, t, V::set(1.0F));
    return V::fma(V::to_float(exponent), V::set(0.693147181F), V::mul(p, t));
}

// Two standard normals from two random words, Box and Muller (1958): the top 24 bits give u in (0, 1] and the
// turn v in [0, 1); z = sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v).
template <class V>
inline void box_muller(typename V::I word0, typename V::I word1, typename V::F& z0, typename V::F& z1) {
    const auto u = V::mul(V::add(V::to_float(V::shift_right(word0, 8)), V::set(1.0F)), V::set(0x1p-24F));
    const auto radius = V::sqrt(V::mul(V::set(-2.0F), logarithm<V>(u)));
    const auto quarters = V::mul(V::to_float(V::shift_right(word1, 8)), V::set(0x1p-22F));
    const auto nearest = V::round(quarters);
    const auto f = V::sub(quarters, nearest);
    const auto f2 = V::mul(f, f);
    auto s = V::set(-0.00460165786F);  // sin(pi f / 2) / f, 3e-9
    s = V::fma(s, f2, V::set(0.079680033F));
    s = V::fma(s, f2, V::set(-0.64596349F));
    s = V::mul(V::fma(s, f2, V::set(1.57079637F)), f);
    auto c = V::set(0.00090336299F);  // cos(pi f / 2), 6e-11
    c = V::fma(c, f2, V::set(-0.0208599363F));
    c = V::fma(c, f2, V::set(0.253669173F));
    c = V::fma(c, f2, V::set(-1.23370051F));
    c = V::fma(c, f2, V::set(1.0F));
    const auto quadrant = V::to_int(nearest);
    // cos and sin of the quadrant plus f: swap in odd quadrants, then signs from the quadrant's bits.
    const auto cos_sign = V::shift_left(V::bit_and(V::add(quadrant, V::set_int(1)), V::set_int(2)), 30);
    const auto sin_sign = V::shift_left(V::bit_and(quadrant, V::set_int(2)), 30);
    const auto cosine = V::from_bits(V::bit_xor(V::bits(V::select_odd(quadrant, s, c)), cos_sign));
    const auto sine = V::from_bits(V::bit_xor(V::bits(V::select_odd(quadrant, c, s)), sin_sign));
    z0 = V::mul(radius, cosine);
    z1 = V::mul(radius, sine);
}

// Noise of dimensions 4 q .. 4 q + 3 of one vector of rows: Philox4x32-10 (native/rng.h) at counter
// (candidate, particle, step, q), keyed by the problem's seed.
template <class V>
inline void normals(typename V::I candidate, typename V::I particle, std::uint32_t step, std::uint32_t q,
                    typename V::I key0, typename V::I key1, typename V::F z[4]) {
    typename V::I c0 = candidate, c1 = particle, c2 = V::set_int(step), c3 = V::set_int(q);
    for (int round = 0; round < 10; ++round) {
        typename V::I high0, low0, high1, low1;
        V::multiply(c0, 0xD2511F53U, high0, low0);
        V::multiply(c2, 0xCD9E8D57U, high1, low1);
        c0 = V::bit_xor(V::bit_xor(high1, c1), key0);
        c2 = V::bit_xor(V::bit_xor(high0, c3), key1);
        c1 = low1;
        c3 = low0;
        key0 = V::add(key0, V::set_int(0x9E3779B9U));
        key1 = V::add(key1, V::set_int(0xBB67AE85U));
    }
    box_muller<V>(c0, c1, z[0], z[1]);
    box_muller<V>(c2, c3, z[2], z[3]);
}

}  // namespace
}  // namespace native
