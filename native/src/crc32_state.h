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
constexpr std::size_t kWideFoldBytes = 256;           // the same with 512-bit registers

constexpr std::uint32_t times_x(std::uint32_t value) {
    return value >> 1 ^ ((value & 1U) != 0 ? kCrcPolynomial : 0U);
}

// x^power modulo the polynomial, shifted by the one bit that a product of reflected factors is short of.
constexpr std::uint64_t fold_factor(int power) {
    std::uint32_t value = 0x80000000;  // 1
    for (int i = 0; i < power; ++i) value = times_x(value);
    return static_cast<std::uint64_t>(value) << 1;
}

// The register after `bytes` more bytes, by tables.
std::uint32_t crc32_tables(const std::byte* data, std::size_t bytes, std::uint32_t state);

// The same by carry-less multiplication; bytes >= kFoldBytes, and the processor must have PCLMULQDQ and
// SSE4.1.
std::uint32_t crc32_pclmul(const std::byte* data, std::size_t bytes, std::uint32_t state);

// The same with 512-bit registers; bytes >= kWideFoldBytes, and the processor must have VPCLMULQDQ and
// AVX-512 too.
std::uint32_t crc32_vpclmul(const std::byte* data, std::size_t bytes, std::uint32_t state);

}  // namespace native
