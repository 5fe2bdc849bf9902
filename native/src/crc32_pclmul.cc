// CRC-32 by folding: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction"
// (Intel, 2009). A register of 128 bits far ahead of the data is worth the same as its product with a power
// of x, modulo the polynomial, where it is added to the data; the last 128 bits go through the tables.
#include <smmintrin.h>
#include <wmmintrin.h>

#include <array>

#include "crc32_state.h"

namespace native {
namespace {

constexpr std::size_t kLaneBytes = sizeof(__m128i);
constexpr std::size_t kLanes = kFoldBytes / kLaneBytes;

// Factors that move the two halves of a lane by `bits`.
template <int bits>
__m128i fold_factors() {
    constexpr std::uint64_t low = fold_factor(bits + 32), high = fold_factor(bits - 32);
    return _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low));
}

__m128i load(const std::byte* data) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data)); }

__m128i fold(__m128i lane, __m128i factors, __m128i data) {
    const __m128i low = _mm_clmulepi64_si128(lane, factors, 0x00);
    const __m128i high = _mm_clmulepi64_si128(lane, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), data);
}

}  // namespace

std::uint32_t crc32_pclmul(const std::byte* data, std::size_t bytes, std::uint32_t state) {
    __m128i lanes[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = load(data + i * kLaneBytes);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(static_cast<int>(state)));
    data += kFoldBytes;
    bytes -= kFoldBytes;
    const __m128i far = fold_factors<8 * kFoldBytes>();
    for (; bytes >= kFoldBytes; data += kFoldBytes, bytes -= kFoldBytes)
        for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = fold(lanes[i], far, load(data + i * kLaneBytes));
    const __m128i near = fold_factors<8 * kLaneBytes>();
    __m128i rest = lanes[0];
    for (std::size_t i = 1; i < kLanes; ++i) rest = fold(rest, near, lanes[i]);
    for (; bytes >= kLaneBytes; data += kLaneBytes, bytes -= kLaneBytes) rest = fold(rest, near, load(data));
    std::array<std::byte, kLaneBytes> last;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(last.data()), rest);
    return crc32_tables(data, bytes, crc32_tables(last.data(), kLaneBytes, 0));
}

}  // namespace native
