// The folding of crc32_pclmul.cc with lanes of four registers.
#include <immintrin.h>

#include "crc32_state.h"

namespace native {
namespace {

constexpr std::size_t kLaneBytes = sizeof(__m512i);
constexpr std::size_t kLanes = kWideFoldBytes / kLaneBytes;

template <int bits>
__m512i fold_factors() {
    constexpr std::uint64_t low = fold_factor(bits + 32), high = fold_factor(bits - 32);
    constexpr auto h = static_cast<long long>(high), l = static_cast<long long>(low);
    return _mm512_set_epi64(h, l, h, l, h, l, h, l);
}

__m512i fold(__m512i lane, __m512i factors, __m512i data) {
    constexpr int kXorOfThree = 0x96;
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(lane, factors, 0x00),
                                     _mm512_clmulepi64_epi128(lane, factors, 0x11), data, kXorOfThree);
}

}  // namespace

std::uint32_t crc32_vpclmul(const std::byte* data, std::size_t bytes, std::uint32_t state) {
    __m512i lanes[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = _mm512_loadu_si512(data + i * kLaneBytes);
    lanes[0] = _mm512_xor_si512(lanes[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
    data += kWideFoldBytes;
    bytes -= kWideFoldBytes;
    const __m512i far = fold_factors<8 * kWideFoldBytes>();
    for (; bytes >= kWideFoldBytes; data += kWideFoldBytes, bytes -= kWideFoldBytes)
        for (std::size_t i = 0; i < kLanes; ++i)
            lanes[i] = fold(lanes[i], far, _mm512_loadu_si512(data + i * kLaneBytes));
    const __m512i near = fold_factors<8 * kLaneBytes>();
    __m512i rest = lanes[0];
    for (std::size_t i = 1; i < kLanes; ++i) rest = fold(rest, near, lanes[i]);
    alignas(__m512i) std::byte last[kLaneBytes];
    _mm512_store_si512(last, rest);
    const std::uint32_t before = crc32_pclmul(last, kLaneBytes, 0);
    return bytes >= kFoldBytes ? crc32_pclmul(data, bytes, before) : crc32_tables(data, bytes, before);
}

}  // namespace native
