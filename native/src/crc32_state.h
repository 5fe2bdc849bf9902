// What the variants of the CRC-32 share: the register that runs over the bytes, without the inversions at
// both ends.
//
// Polynomials over GF(2) are stored reflected: the highest power is the lowest bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace native {

constexpr std::uint32_t kCrcPolynomial = 0xEDB88320;  // without x^32
constexpr std::size_t kFoldBytes = 64;                // what one step of the folding takes in

constexpr std::uint32_t times_x(std::uint32_t value) {
    return value >> 1 ^ ((value & 1U) != 0 ? kCrcPolynomial : 0U);
}

// The register after `bytes` more bytes, by tables.
std::uint32_t crc32_tables(const std::byte* data, std::size_t bytes, std::uint32_t state);

// The same by carry-less multiplication; bytes >= kFoldBytes, and the processor must have PCLMULQDQ and
// SSE4.1.
std::uint32_t crc32_pclmul(const std::byte* data, std::size_t bytes, std::uint32_t state);

}  // namespace native
