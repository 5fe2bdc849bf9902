// What follows the sums of a bf16 layer: activation and rounding, shared by Bf16Net and TileNet. Activations
// of bf16 layers are [feature pair][row][2], so that one 32-bit lane holds the two products of a bf16
// dot-product step. Anonymous namespace for the reason given in ensemble_kernel.h.
#pragma once

#include "ensemble_math.h"

namespace native {
namespace {

template <class V, int rows>
struct Bf16Epilogue {
    using Activate = void (*)(const float* sums, const float* bias, int pairs, std::uint16_t* y);

    // y = bf16(activation(sums + bias)) for `pairs` pairs of outputs; sums [2 pairs][rows].
    template <Activation activation>
    static void activate_pairs(const float* sums, const float* bias, int pairs, std::uint16_t* y) {
        for (int pair = 0; pair < pairs; ++pair) {
            const auto bias0 = V::set(bias[2 * pair]);
            const auto bias1 = V::set(bias[2 * pair + 1]);
            for (int r = 0; r < rows; r += V::lanes) {
                const auto first = V::add(V::load(sums + 2 * pair * rows + r), bias0);
                const auto second = V::add(V::load(sums + (2 * pair + 1) * rows + r), bias1);
                V::store_pairs(y + (pair * rows + r) * 2, activate<V, activation, true>(first),
                               activate<V, activation, true>(second));
            }
        }
    }

    static Activate activation_of(const ModelView& model) {
        switch (model.activation) {
            case Activation::relu:
                return activate_pairs<Activation::relu>;
            case Activation::tanh:
                return activate_pairs<Activation::tanh>;
            case Activation::elu:
                return activate_pairs<Activation::elu>;
            case Activation::silu:
                break;
        }
        return activate_pairs<Activation::silu>;
    }

    static void add_bias(const float* sums, const float* bias, int outputs, float* y) {
        for (int n = 0; n < outputs; ++n)
            for (int r = 0; r < rows; r += V::lanes)
                V::store(y + n * rows + r, V::add(V::load(sums + n * rows + r), V::set(bias[n])));
    }

    // Rounds the network's input [in][rows] to pairs.
    static void round_input(const float* input, int in, std::uint16_t* x) {
        for (int k = 0; k < in; k += 2) {
            for (int r = 0; r < rows; r += V::lanes) {
                const auto second = k + 1 < in ? V::load(input + (k + 1) * rows + r) : V::set(0.0F);
                V::store_pairs(x + (k * rows) + 2 * r, V::load(input + k * rows + r), second);
            }
        }
    }
};

}  // namespace
}  // namespace native
