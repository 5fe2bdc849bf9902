// AMX: the hardware behind TileNet. The permission to use tile data is asked in cpu.cc.
#include "ensemble_net_tiles.h"
#include "ensemble_panel.h"
#include "lanes_avx512bf16.h"

namespace native {
namespace {

// The 64-byte operand of LDTILECFG: palette 1, eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

constexpr TileConfig kTileConfig{};

// The intrinsics are macros that paste a literal tile number into the instruction.
struct HardwareTiles {
    static void configure() { _tile_loadconfig(&kTileConfig); }
    static void release() { _tile_release(); }

    template <int t>
    static void zero() {
        if constexpr (t == 0) _tile_zero(0);
        if constexpr (t == 1) _tile_zero(1);
        if constexpr (t == 2) _tile_zero(2);
        if constexpr (t == 3) _tile_zero(3);
    }

    // GCC's macro does not say that the instruction reads memory: without the barrier the stores of the
    // activations could be moved behind it.
    template <int t>
    static void load(const void* p, int stride) {
        asm volatile("" ::: "memory");
        if constexpr (t == 4) _tile_loadd(4, p, stride);
        if constexpr (t == 5) _tile_loadd(5, p, stride);
        if constexpr (t == 6) _tile_loadd(6, p, stride);
        if constexpr (t == 7) _tile_loadd(7, p, stride);
    }

    template <int t>
    static void store(void* p, int stride) {
        if constexpr (t == 0) _tile_stored(0, p, stride);
        if constexpr (t == 1) _tile_stored(1, p, stride);
        if constexpr (t == 2) _tile_stored(2, p, stride);
        if constexpr (t == 3) _tile_stored(3, p, stride);
    }

    template <int c, int a, int b>
    static void multiply() {
        if constexpr (c == 0) _tile_dpbf16ps(0, 4, 6);
        if constexpr (c == 1) _tile_dpbf16ps(1, 4, 7);
        if constexpr (c == 2) _tile_dpbf16ps(2, 5, 6);
        if constexpr (c == 3) _tile_dpbf16ps(3, 5, 7);
    }
};

using AmxPanels = MixedPanels<TileNet<Avx512Bf16, HardwareTiles, 64>, TileNet<Avx512Bf16, HardwareTiles, 32>>;

}  // namespace

const Variant amx_variant = {
    "amx", Precision::bf16, Layout::bf16_tiles, AmxPanels::rows, 16, AmxPanels::rollout, AmxPanels::predict,
};

}  // namespace native
