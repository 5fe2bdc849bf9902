// Checks of the CRC-32 that need no Python; run under the sanitizers too.
#include "native/crc32.h"

#include <cstdio>
#include <cstring>
#include <vector>

#include "../src/crc32_state.h"
#include "check.h"
#include "native/cpu.h"

using namespace native;

namespace {

// The definition: one bit at a time.
std::uint32_t by_bits(const std::byte* data, std::size_t bytes, std::uint32_t crc) {
    std::uint32_t state = ~crc;
    for (std::size_t i = 0; i < bytes; ++i) {
        state ^= static_cast<std::uint32_t>(data[i]);
        for (int bit = 0; bit < 8; ++bit) state = state >> 1 ^ ((state & 1U) != 0 ? 0xEDB88320U : 0U);
    }
    return ~state;
}

using Variant = std::uint32_t (*)(const std::byte*, std::size_t, std::uint32_t);

// Those that this machine can run and that take so many bytes.
std::vector<Variant> variants(std::size_t bytes) {
    std::vector<Variant> found{crc32_tables};
    if (cpu_features().pclmul && bytes >= kFoldBytes) found.push_back(crc32_pclmul);
    if (cpu_features().vpclmul && bytes >= kWideFoldBytes) found.push_back(crc32_vpclmul);
    return found;
}

void test_check_value() {
    std::byte digits[9];
    std::memcpy(digits, "123456789", 9);
    expect(crc32(digits, 9) == 0xCBF43926, "the check value of the standard");
    expect(crc32(digits, 0) == 0, "nothing has the checksum 0");
}

void test_every_length_and_place() {
    std::vector<std::byte> data(700);
    std::uint32_t random = 1;
    for (std::byte& byte : data)
        byte = static_cast<std::byte>((random = random * 1664525 + 1013904223) >> 24);
    bool equal = true;
    for (std::size_t begin = 0; begin < 20; ++begin)
        for (std::size_t bytes = 0; begin + bytes <= data.size(); ++bytes) {
            const std::uint32_t expected = by_bits(data.data() + begin, bytes, random);
            equal &= crc32(data.data() + begin, bytes, random) == expected;
            for (const Variant variant : variants(bytes))
                equal &= ~variant(data.data() + begin, bytes, ~random) == expected;
        }
    expect(equal, "every length at every alignment agrees with the definition");
    const std::uint32_t whole = crc32(data.data(), data.size());
    for (std::size_t cut = 0; cut <= data.size(); ++cut)
        equal &= crc32(data.data() + cut, data.size() - cut, crc32(data.data(), cut)) == whole;
    expect(equal, "the parts continue each other");
}

}  // namespace

int main() {
    test_check_value();
    test_every_length_and_place();
    if (failures == 0) std::puts("crc32_test: ok");
    return failures == 0 ? 0 : 1;
}
