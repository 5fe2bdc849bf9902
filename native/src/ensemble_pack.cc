#include "ensemble_pack.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace native {
namespace {

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

std::uint16_t round_bf16(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    if (std::isnan(value)) return static_cast<std::uint16_t>(word >> 16 | 0x40U);
    return static_cast<std::uint16_t>((word + 0x7FFFU + (word >> 16 & 1U)) >> 16);
}

// One member's [in, out] matrix; zero outside.
struct Matrix {
    const float* values;
    int in;
    int out;
    float at(int k, int n) const {
        return k < in && n < out ? values[static_cast<std::ptrdiff_t>(k) * out + n] : 0.0F;
    }
};

std::size_t packed_bytes(const Matrix& m, Layout layout) {
    const auto size = [](int in, int out) {
        return static_cast<std::size_t>(in) * static_cast<std::size_t>(out);
    };
    switch (layout) {
        case Layout::fp32_blocks:
            return sizeof(float) * size(m.in, m.out);
        case Layout::bf16_pairs:
            return sizeof(std::uint16_t) * size(round_up(m.in, 2), round_up(m.out, 2));
        case Layout::bf16_tiles:
            return sizeof(std::uint16_t) * size(round_up(m.in, 32), round_up(m.out, 16));
    }
    return 0;
}

void pack_fp32_blocks(const Matrix& m, int most, float* packed) {
    for (int index = 0; index < block_count(m.out, most); ++index) {
        const Block block = split_block(m.out, most, index);
        for (int k = 0; k < m.in; ++k)
            for (int n = 0; n < block.size; ++n) *packed++ = m.at(k, block.first + n);
    }
}

void pack_bf16_pairs(const Matrix& m, int most, std::uint16_t* packed) {
    const int output_pairs = round_up(m.out, 2) / 2;
    for (int index = 0; index < block_count(output_pairs, most / 2); ++index) {
        const Block block = split_block(output_pairs, most / 2, index);
        for (int k = 0; k < round_up(m.in, 2); k += 2)
            for (int n = 2 * block.first; n < 2 * (block.first + block.size); ++n)
                for (int i = 0; i < 2; ++i) *packed++ = round_bf16(m.at(k + i, n));
    }
}

void pack_bf16_tiles(const Matrix& m, std::uint16_t* packed) {
    for (int n0 = 0; n0 < m.out; n0 += 16)
        for (int k0 = 0; k0 < m.in; k0 += 32)
            for (int n = n0; n < n0 + 16; ++n)
                for (int k = k0; k < k0 + 32; ++k) *packed++ = round_bf16(m.at(k, n));
}

void pack(const Matrix& m, const Variant& variant, void* packed) {
    switch (variant.layout) {
        case Layout::fp32_blocks:
            return pack_fp32_blocks(m, variant.block, static_cast<float*>(packed));
        case Layout::bf16_pairs:
            return pack_bf16_pairs(m, variant.block, static_cast<std::uint16_t*>(packed));
        case Layout::bf16_tiles:
            return pack_bf16_tiles(m, static_cast<std::uint16_t*>(packed));
    }
}

[[noreturn]] void refuse(const std::string& what, std::int64_t value) {
    throw std::invalid_argument(what + ", not " + std::to_string(value));
}

void check_shapes(const EnsembleWeights& w) {
    if (w.num_members < 1) refuse("the ensemble needs at least 1 member", w.num_members);
    if (w.state_size < 1) refuse("state_size must be at least 1", w.state_size);
    if (w.action_size < 1) refuse("action_size must be at least 1", w.action_size);
    if (w.layers.empty()) refuse("the network needs at least 1 layer", 0);
    int width = w.state_size + w.action_size;
    for (std::size_t i = 0; i < w.layers.size(); ++i) {
        const std::string name = "weight_" + std::to_string(i);
        if (w.layers[i].in != width)
            refuse(name + " must have " + std::to_string(width) + " inputs", w.layers[i].in);
        if (w.layers[i].out < 1) refuse(name + " must have at least 1 output", w.layers[i].out);
        width = w.layers[i].out;
    }
    const int outputs = (w.gaussian ? 2 : 1) * (w.state_size + 1) + (w.has_termination ? 1 : 0);
    if (width != outputs) refuse("the last layer must have " + std::to_string(outputs) + " outputs", width);
}

}  // namespace

AlignedFloats make_aligned_floats(std::size_t count) {
    constexpr std::size_t line = 64;
    const std::size_t bytes = std::max(line, (count * sizeof(float) + line - 1) / line * line);
    auto* memory = static_cast<float*>(std::aligned_alloc(line, bytes));
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, bytes);
    return {memory, std::free};
}

PackedModel::PackedModel(const EnsembleWeights& w, const Variant& variant) {
    check_shapes(w);
    view_.num_members = w.num_members;
    view_.state_size = w.state_size;
    view_.action_size = w.action_size;
    view_.gaussian = w.gaussian;
    view_.has_termination = w.has_termination;
    view_.activation = w.activation;
    view_.widest = round_up(w.state_size + w.action_size, kWidthMultiple);
    for (const auto& layer : w.layers) {
        view_.widest = std::max(view_.widest, round_up(layer.out, kWidthMultiple));
        pack_layer(layer, variant);
    }
    view_.num_layers = static_cast<int>(layers_.size());
    view_.layers = layers_.data();

    const auto keep = [this](const float* values, int count, auto transform) {
        storage_.push_back(make_aligned_floats(static_cast<std::size_t>(count)));
        std::transform(values, values + count, storage_.back().get(), transform);
        return static_cast<const float*>(storage_.back().get());
    };
    const auto same = [](float x) { return x; };
    view_.input_shift = keep(w.input_shift, w.state_size + w.action_size, same);
    view_.input_scale = keep(w.input_scale, w.state_size + w.action_size, same);
    view_.output_shift = keep(w.output_shift, w.state_size + 1, same);
    view_.output_scale = keep(w.output_scale, w.state_size + 1, same);
    if (w.gaussian) {
        view_.exp_min_logvar = keep(w.min_logvar, w.state_size + 1, [](float x) { return std::exp(x); });
        view_.exp_neg_max_logvar = keep(w.max_logvar, w.state_size + 1, [](float x) { return std::exp(-x); });
    }
}

void PackedModel::pack_layer(const EnsembleWeights::Layer& layer, const Variant& variant) {
    const auto matrix_size = static_cast<std::size_t>(layer.in) * static_cast<std::size_t>(layer.out);
    const auto members = static_cast<std::size_t>(view_.num_members);
    const auto matrix = [&](std::size_t member) {
        return Matrix{layer.weight + member * matrix_size, layer.in, layer.out};
    };
    // Members start on their own cache line.
    const std::size_t stride = (packed_bytes(matrix(0), variant.layout) + 63) / 64 * 64;
    const auto bias_stride = static_cast<std::size_t>(round_up(layer.out, kWidthMultiple));
    storage_.push_back(make_aligned_floats(members * stride / sizeof(float)));
    auto* weight = reinterpret_cast<char*>(storage_.back().get());
    storage_.push_back(make_aligned_floats(members * bias_stride));
    float* bias = storage_.back().get();
    for (std::size_t member = 0; member < members; ++member) {
        pack(matrix(member), variant, weight + member * stride);
        std::copy_n(layer.bias + member * static_cast<std::size_t>(layer.out), layer.out,
                    bias + member * bias_stride);
    }
    layers_.push_back({layer.in, layer.out, weight, stride, bias, bias_stride});
}

}  // namespace native
