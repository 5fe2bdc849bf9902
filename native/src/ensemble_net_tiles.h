// The network with bf16 weights and layer inputs, float32 sums, by tile products. Tiles is the tile unit: the
// hardware in ensemble_amx.cc, its emulation in the C++ tests. A weight tile is 16 outputs x 32 inputs, an
// activation tile 16 input pairs x 16 rows x 2, and their product 16 outputs x 16 rows: activations keep the
// layout of Bf16Net and no result is ever transposed. Anonymous namespace for the reason given in
// ensemble_kernel.h.
#pragma once

#include "ensemble_bf16_epilogue.h"

namespace native {
namespace {

// Tiles provides configure(), release(), and for tile numbers 0..7 as template arguments: zero<t>(),
// load<t>(pointer, stride in bytes), store<t>(pointer, stride), multiply<c, a, b>(): c += a b in pairs.
// row_count: a multiple of 32.
template <class V, class Tiles, int row_count>
struct TileNet {
    using Lanes = V;
    static constexpr int rows = row_count;
    using Epilogue = Bf16Epilogue<V, rows>;

    static constexpr int kTile = 16;             // outputs, rows or input pairs of a tile
    static constexpr int kTileBytes = 1024;      // of a packed weight tile
    static constexpr int kRowStride = rows * 4;  // bytes from one input pair, or one output, to the next

    // Sums of 16 or 32 outputs x 32 rows: up to four independent accumulators for each pair of loads.
    template <int output_tiles>
    static void multiply_quad(const std::uint16_t* x, const char* weight, int k_tiles, float* sums) {
        Tiles::template zero<0>();
        Tiles::template zero<1>();
        if constexpr (output_tiles == 2) {
            Tiles::template zero<2>();
            Tiles::template zero<3>();
        }
        for (int k = 0; k < k_tiles; ++k) {
            const std::uint16_t* column = x + static_cast<std::ptrdiff_t>(k) * kTile * rows * 2;
            Tiles::template load<6>(column, kRowStride);
            Tiles::template load<7>(column + 2 * kTile, kRowStride);
            Tiles::template load<4>(weight + static_cast<std::ptrdiff_t>(k) * kTileBytes, 64);
            Tiles::template multiply<0, 4, 6>();
            Tiles::template multiply<1, 4, 7>();
            if constexpr (output_tiles == 2) {
                Tiles::template load<5>(weight + static_cast<std::ptrdiff_t>(k_tiles + k) * kTileBytes, 64);
                Tiles::template multiply<2, 5, 6>();
                Tiles::template multiply<3, 5, 7>();
            }
        }
        Tiles::template store<0>(sums, kRowStride);
        Tiles::template store<1>(sums + kTile, kRowStride);
        if constexpr (output_tiles == 2) {
            Tiles::template store<2>(sums + kTile * rows, kRowStride);
            Tiles::template store<3>(sums + kTile * rows + kTile, kRowStride);
        }
    }

    // sums [outputs][rows] of one or two output tiles; weight is the first tile's, each k_tiles long.
    static void multiply(int output_tiles, const std::uint16_t* x, const char* weight, int k_tiles,
                         float* sums) {
        for (int r = 0; r < rows; r += 2 * kTile) {
            if (output_tiles == 2) {
                multiply_quad<2>(x + 2 * r, weight, k_tiles, sums + r);
            } else {
                multiply_quad<1>(x + 2 * r, weight, k_tiles, sums + r);
            }
        }
    }

    // Tiles read whole groups of 32 inputs: what lies behind the last one must be 0, not just multiplied by
    // 0.
    static void clear_tail(int features, std::uint16_t* x) {
        const int begin = (features + 1) / 2 * 2;
        const int end = (features + 31) / 32 * 32;
        for (int i = begin * rows; i < end * rows; ++i) x[i] = 0;
    }

    // Writes pairs to y, or, without one, float32 to output.
    static void layer(const LayerView& layer, int member, const std::uint16_t* x, std::uint16_t* y,
                      float* output, typename Epilogue::Activate activate) {
        const char* weight =
            static_cast<const char*>(layer.weight) + static_cast<std::size_t>(member) * layer.weight_stride;
        const float* bias = layer.bias + static_cast<std::size_t>(member) * layer.bias_stride;
        const int k_tiles = (layer.in + 31) / 32;
        const int output_tiles = (layer.out + kTile - 1) / kTile;
        alignas(64) float sums[2 * kTile * rows];
        for (int tile = 0; tile < output_tiles; tile += 2) {
            const int tiles = output_tiles - tile < 2 ? 1 : 2;
            const int first = tile * kTile;
            multiply(tiles, x, weight + static_cast<std::ptrdiff_t>(tile) * k_tiles * kTileBytes, k_tiles,
                     sums);
            if (y != nullptr) {
                activate(sums, bias + first, tiles * kTile / 2, y + first * rows);
            } else {
                Epilogue::add_bias(sums, bias + first, tiles * kTile, output + first * rows);
            }
        }
        if (y != nullptr) clear_tail(output_tiles * kTile, y);
    }

    // output [out][rows] of the input [in][rows]; work holds 2 * widest * rows floats.
    static void forward(const ModelView& model, int member, const float* input, float* output, float* work) {
        auto* buffers = reinterpret_cast<std::uint16_t*>(work);
        const int stride = model.widest * rows;
        const auto activate = Epilogue::activation_of(model);
        Tiles::configure();
        Epilogue::round_input(input, model.layers[0].in, buffers);
        clear_tail(model.layers[0].in, buffers);
        for (int i = 0; i < model.num_layers; ++i) {
            const bool last = i + 1 == model.num_layers;
            const std::uint16_t* x = buffers + (i % 2) * stride;
            std::uint16_t* y = last ? nullptr : buffers + ((i + 1) % 2) * stride;
            layer(model.layers[i], member, x, y, output, activate);
        }
        Tiles::release();
    }
};

}  // namespace
}  // namespace native
