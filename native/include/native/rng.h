// Counter-based random numbers: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As
// Easy as 1, 2, 3" (SC 2011). The value at a counter depends on nothing else, so results do not depend on
// threads, batching or blocking. Include from baseline code only; the vector kernels carry their own copy.
#pragma once

#include <array>
#include <cstdint>

namespace native {

using Philox4x32 = std::array<std::uint32_t, 4>;

// Four random words for one (counter, key). Ten rounds, no state. Known answers are in
// tests/ensemble_test.cc.
constexpr Philox4x32 philox4x32(Philox4x32 counter, std::uint64_t key) {
    std::uint32_t key0 = static_cast<std::uint32_t>(key);
    std::uint32_t key1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter[0];
        const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter[2];
        counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0,
                   static_cast<std::uint32_t>(product1),
                   static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1,
                   static_cast<std::uint32_t>(product0)};
        key0 += 0x9E3779B9U;
        key1 += 0xBB67AE85U;
    }
    return counter;
}

}  // namespace native
