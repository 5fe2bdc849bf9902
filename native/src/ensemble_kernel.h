// What the baseline code and the instruction-set variants of the ensemble kernel agree on: plain structs of
// borrowed pointers. The variants are compiled with wider instruction sets, so nothing here may be an inline
// function with external linkage: the linker could keep the wide copy for everybody.
#pragma once

#include <cstddef>
#include <cstdint>

#include "native/ensemble.h"

namespace native {

// How a variant wants its weights; ensemble_pack.cc writes them. Blocks follow split_block below.
enum class Layout {
    fp32_blocks,  // per block of outputs: [in][outputs of the block]
    bf16_pairs,   // per block of outputs: [in pairs][outputs of the block][2]; outputs rounded up to even
    bf16_tiles,   // per 16 outputs: [in / 32][16 outputs][32 inputs]; both rounded up
};

struct LayerView {
    int in;
    int out;
    const void* weight;         // of member 0
    std::size_t weight_stride;  // bytes from one member to the next
    const float* bias;          // of member 0, zero beyond `out`
    std::size_t bias_stride;    // floats from one member to the next
};

struct ModelView {
    int num_members;
    int state_size;
    int action_size;
    bool gaussian;
    bool has_termination;
    Activation activation;
    int num_layers;
    int widest;  // largest layer width, inputs and outputs included, rounded up to kWidthMultiple
    const LayerView* layers;
    const float* input_shift;
    const float* input_scale;
    const float* output_shift;
    const float* output_scale;
    const float* exp_min_logvar;      // e^min
    const float* exp_neg_max_logvar;  // e^-max
};

// Rows that go through the network together: up to Variant::rows candidates that use the same member in each
// step. Arrays of pointers and ids have Variant::rows entries; those beyond `rows` repeat a valid row and are
// not written.
struct RolloutPanel {
    int rows;
    int horizon;
    float gamma;
    bool sample;
    const std::int32_t* members;  // member of step h at members[h * members_stride]
    std::ptrdiff_t members_stride;
    const float* const* states;     // [S] each
    const float* const* actions;    // [H, A] each
    const std::uint32_t* seed_low;  // low and high words of the problem's seed
    const std::uint32_t* seed_high;
    const std::uint32_t* candidate;
    const std::uint32_t* particle;
    float* const* returns;     // one float each, or null
    float* const* trajectory;  // [H+1, S] each, or null
    float* const* rewards;     // [H] each, or null
};

struct PredictPanel {
    int rows;
    int member;
    const float* const* states;   // [S] each, Variant::rows of them
    const float* const* actions;  // [A] each
    float* mean;                  // [rows, S+1]
    float* variance;              // [rows, S+1]
    float* done;                  // [rows]
};

// scratch: scratch_floats(model, rows) floats, aligned to 64 bytes; its contents do not matter.
struct Variant {
    const char* name;
    Precision precision;
    Layout layout;
    int rows;   // of a panel
    int block;  // most outputs of a block
    void (*rollout)(const ModelView& model, const RolloutPanel& panel, float* scratch);
    void (*predict)(const ModelView& model, const PredictPanel& panel, float* scratch);
};

extern const Variant scalar_variant;
extern const Variant avx2_variant;
extern const Variant avx512_variant;
extern const Variant avx512bf16_variant;
extern const Variant amx_variant;

constexpr int kWidthMultiple = 32;

// Blocks are as equal as possible, so that no block is so thin that it cannot hide the latency of its sums.
struct Block {
    int first;
    int size;
};

static inline int block_count(int outputs, int most) { return (outputs + most - 1) / most; }

static inline Block split_block(int outputs, int most, int index) {
    const int count = block_count(outputs, most);
    const int base = outputs / count;
    const int larger = outputs % count;  // the first blocks have one more
    return {index * base + (index < larger ? index : larger), base + (index < larger ? 1 : 0)};
}

// State, network input, network output and two activations, each widest x rows.
static inline std::size_t scratch_floats(const ModelView& model, int rows) {
    return std::size_t{5} * static_cast<std::size_t>(model.widest) * static_cast<std::size_t>(rows);
}

}  // namespace native
