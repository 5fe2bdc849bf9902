#include "native/crc32.h"

#include <array>
#include <bit>
#include <cstring>

#include "crc32_state.h"
#include "native/cpu.h"

namespace native {
namespace {

constexpr std::size_t kSlices = 8;  // bytes taken in at once

using Tables = std::array<std::array<std::uint32_t, 256>, kSlices>;

// tables[k][b] is the register after byte b and k zero bytes.
constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t state = byte;
        for (int bit = 0; bit < 8; ++bit) state = times_x(state);
        tables[0][byte] = state;
    }
    for (std::size_t slice = 1; slice < kSlices; ++slice)
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = tables[slice - 1][byte];
            tables[slice][byte] = before >> 8 ^ tables[0][before & 0xFF];
        }
    return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

std::uint32_t crc32_tables(const std::byte* data, std::size_t bytes, std::uint32_t state) {
    static_assert(std::endian::native == std::endian::little);
    for (; bytes >= kSlices; data += kSlices, bytes -= kSlices) {
        std::uint64_t word = 0;
        std::memcpy(&word, data, kSlices);
        word ^= state;
        state = 0;
        for (std::size_t byte = 0; byte < kSlices; ++byte)
            state ^= kTables[kSlices - 1 - byte][word >> 8 * byte & 0xFF];
    }
    for (; bytes > 0; ++data, --bytes)
        state = state >> 8 ^ kTables[0][(state ^ static_cast<std::uint32_t>(*data)) & 0xFF];
    return state;
}

std::uint32_t crc32(const std::byte* data, std::size_t bytes, std::uint32_t crc) {
    const CpuFeatures& cpu = cpu_features();
    if (cpu.vpclmul && bytes >= kWideFoldBytes) return ~crc32_vpclmul(data, bytes, ~crc);
    if (cpu.pclmul && bytes >= kFoldBytes) return ~crc32_pclmul(data, bytes, ~crc);
    return ~crc32_tables(data, bytes, ~crc);
}

}  // namespace native
