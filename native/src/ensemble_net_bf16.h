// The network with bf16 weights and layer inputs, float32 sums, by dot products of pairs. Lanes V, `vectors`
// vectors of rows, at most `block` outputs (even) at a time. Anonymous namespace for the reason given in
// ensemble_kernel.h.
#pragma once

#include "ensemble_bf16_epilogue.h"

namespace native {
namespace {

template <class V, int vectors, int block>
struct Bf16Net {
    using Lanes = V;
    static constexpr int rows = V::lanes * vectors;
    using Epilogue = Bf16Epilogue<V, rows>;

    // sums[n][row] = sum_k weight[k][n] x[k][row] for 2 * `pairs` outputs, in the order of k whatever the
    // block.
    template <int pairs>
    static void multiply_block(const std::uint16_t* x, const std::uint16_t* weight, int in_pairs,
                               float* sums) {
        constexpr int size = 2 * pairs;
        typename V::F acc[size][vectors];
#pragma GCC unroll 16
        for (int n = 0; n < size; ++n)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) acc[n][v] = V::set(0.0F);
        for (int k = 0; k < in_pairs; ++k) {
            typename V::I column[vectors];
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) column[v] = V::load_pairs(x + 2 * (k * rows + v * V::lanes));
#pragma GCC unroll 16
            for (int n = 0; n < size; ++n) {
                const auto w = V::set_pair(weight + 2 * (k * size + n));
#pragma GCC unroll 8
                for (int v = 0; v < vectors; ++v) acc[n][v] = V::dot_pairs(acc[n][v], column[v], w);
            }
        }
#pragma GCC unroll 16
        for (int n = 0; n < size; ++n)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) V::store(sums + n * rows + v * V::lanes, acc[n][v]);
    }

    template <int pairs = block / 2>
    static void multiply(int wanted, const std::uint16_t* x, const std::uint16_t* weight, int in_pairs,
                         float* sums) {
        if constexpr (pairs > 1) {
            if (wanted < pairs) return multiply<pairs - 1>(wanted, x, weight, in_pairs, sums);
        }
        multiply_block<pairs>(x, weight, in_pairs, sums);
    }

    // Writes pairs to y, or, without one, float32 to output.
    static void layer(const LayerView& layer, int member, const std::uint16_t* x, std::uint16_t* y,
                      float* output, typename Epilogue::Activate activate) {
        const auto* weight = reinterpret_cast<const std::uint16_t*>(
            static_cast<const char*>(layer.weight) + static_cast<std::size_t>(member) * layer.weight_stride);
        const float* bias = layer.bias + static_cast<std::size_t>(member) * layer.bias_stride;
        const int in_pairs = (layer.in + 1) / 2;
        const int out_pairs = (layer.out + 1) / 2;
        alignas(64) float sums[block * rows];
        for (int index = 0; index < block_count(out_pairs, block / 2); ++index) {
            const Block b = split_block(out_pairs, block / 2, index);
            const int first = 2 * b.first;
            multiply(b.size, x, weight + static_cast<std::size_t>(first) * 2 * in_pairs, in_pairs, sums);
            if (y != nullptr) {
                activate(sums, bias + first, b.size, y + first * rows);
            } else {
                Epilogue::add_bias(sums, bias + first, 2 * b.size, output + first * rows);
            }
        }
    }

    // output [out][rows] of the input [in][rows]; work holds 2 * widest * rows floats.
    static void forward(const ModelView& model, int member, const float* input, float* output, float* work) {
        auto* buffers = reinterpret_cast<std::uint16_t*>(work);
        const int stride = model.widest * rows;
        const auto activate = Epilogue::activation_of(model);
        Epilogue::round_input(input, model.layers[0].in, buffers);
        for (int i = 0; i < model.num_layers; ++i) {
            const bool last = i + 1 == model.num_layers;
            const std::uint16_t* x = buffers + (i % 2) * stride;
            std::uint16_t* y = last ? nullptr : buffers + ((i + 1) % 2) * stride;
            layer(model.layers[i], member, x, y, output, activate);
        }
    }
};

}  // namespace
}  // namespace native
