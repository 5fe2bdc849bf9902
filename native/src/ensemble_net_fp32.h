// The network in float32. Activations are [feature][row], so a vector holds one feature of several rows,
// weights are broadcast, and no width needs padding. Lanes V, `vectors` vectors of rows, at most `block`
// outputs at a time. Anonymous namespace for the reason given in ensemble_kernel.h.
#pragma once

#include "ensemble_math.h"

namespace native {
namespace {

template <class V, int vectors, int block>
struct Fp32Net {
    using Lanes = V;
    static constexpr int rows = V::lanes * vectors;

    // sums[n][row] = bias[n] + sum_k weight[k][n] x[k][row] for the `size` outputs of one block. The sums of
    // one row are taken in the order of k whatever the block, so a row's result does not depend on its
    // neighbours.
    template <int size>
    static void multiply_block(const float* x, const float* weight, int in, const float* bias, float* sums) {
        typename V::F acc[size][vectors];
#pragma GCC unroll 16
        for (int n = 0; n < size; ++n)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) acc[n][v] = V::set(bias[n]);
        for (int k = 0; k < in; ++k) {
            typename V::F column[vectors];
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) column[v] = V::load(x + k * rows + v * V::lanes);
#pragma GCC unroll 16
            for (int n = 0; n < size; ++n) {
                const auto w = V::set(weight[k * size + n]);
#pragma GCC unroll 8
                for (int v = 0; v < vectors; ++v) acc[n][v] = V::fma(w, column[v], acc[n][v]);
            }
        }
#pragma GCC unroll 16
        for (int n = 0; n < size; ++n)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) V::store(sums + n * rows + v * V::lanes, acc[n][v]);
    }

    template <int size = block>
    static void multiply(int wanted, const float* x, const float* weight, int in, const float* bias,
                         float* sums) {
        if constexpr (size > 1) {
            if (wanted < size) return multiply<size - 1>(wanted, x, weight, in, bias, sums);
        }
        multiply_block<size>(x, weight, in, bias, sums);
    }

    template <Activation activation>
    static void activate_all(float* values, int count) {
        for (int i = 0; i < count; i += V::lanes)
            V::store(values + i, activate<V, activation, false>(V::load(values + i)));
    }

    static void layer(const LayerView& layer, int member, const float* x, float* y,
                      void (*activate)(float* values, int count)) {
        const auto* weight = reinterpret_cast<const float*>(
            static_cast<const char*>(layer.weight) + static_cast<std::size_t>(member) * layer.weight_stride);
        const float* bias = layer.bias + static_cast<std::size_t>(member) * layer.bias_stride;
        const int count = block_count(layer.out, block);
        for (int index = 0; index < count; ++index) {
            const Block b = split_block(layer.out, block, index);
            float* sums = y + b.first * rows;
            multiply(b.size, x, weight + static_cast<std::size_t>(b.first) * layer.in, layer.in,
                     bias + b.first, sums);
            if (activate != nullptr) activate(sums, b.size * rows);
        }
    }

    // output [out][rows] of the input [in][rows]; work holds 2 * widest * rows floats.
    static void forward(const ModelView& model, int member, const float* input, float* output, float* work) {
        void (*activate)(float*, int) = nullptr;
        switch (model.activation) {
            case Activation::silu:
                activate = activate_all<Activation::silu>;
                break;
            case Activation::relu:
                activate = activate_all<Activation::relu>;
                break;
            case Activation::tanh:
                activate = activate_all<Activation::tanh>;
                break;
            case Activation::elu:
                activate = activate_all<Activation::elu>;
                break;
        }
        const float* x = input;
        for (int i = 0; i < model.num_layers; ++i) {
            const bool last = i + 1 == model.num_layers;
            float* y = last ? output : work + (i % 2) * model.widest * rows;
            layer(model.layers[i], member, x, y, last ? nullptr : activate);
            x = y;
        }
    }
};

}  // namespace
}  // namespace native
