// The CRC-32 of zlib, PNG and Ethernet (ISO 3309), at the speed of memory where the processor multiplies
// polynomials.
#pragma once

#include <cstddef>
#include <cstdint>

namespace native {

// The checksum of `bytes` bytes behind data whose checksum is `crc` (0: none). Every burst of errors up to 32
// bits long, and any two wrong bits within 512 MiB, change it. Thread-safe.
std::uint32_t crc32(const std::byte* data, std::size_t bytes, std::uint32_t crc = 0);

}  // namespace native
