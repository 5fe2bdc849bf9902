// Rollouts of an ensemble of MLP dynamics models, fused: one pass over blocks of rows keeps states and
// activations in the first-level cache while the packed weights stream from the second.
//
// Letters: B problems, N candidates, H horizon, A action size, S state size, P particles, K members, M rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace native {

enum class Activation { silu, relu, tanh, elu };
enum class Precision { automatic, fp32, bf16 };
enum class Propagation { ts_inf, ts1 };

// The names used in messages and in Python; parse_* throw std::invalid_argument with the value.
Activation parse_activation(std::string_view name);
Precision parse_precision(std::string_view name);
Propagation parse_propagation(std::string_view name);

// Borrowed arrays that describe an ensemble; read during construction only. The network's input is
// (concat(state, action) - input_shift) * input_scale, its outputs are [mean S+1][log-variance S+1 if
// gaussian] [termination logit if has_termination], and the mean of (state delta, reward) is mean *
// output_scale + output_shift.
struct EnsembleWeights {
    struct Layer {
        int in = 0;
        int out = 0;
        const float* weight = nullptr;  // [K, in, out]
        const float* bias = nullptr;    // [K, out]
    };
    int num_members = 0;
    int state_size = 0;
    int action_size = 0;
    bool gaussian = false;
    bool has_termination = false;
    Activation activation = Activation::silu;  // after every layer but the last
    std::vector<Layer> layers;
    const float* input_shift = nullptr;   // [S+A]
    const float* input_scale = nullptr;   // [S+A]
    const float* output_shift = nullptr;  // [S+1]
    const float* output_scale = nullptr;  // [S+1]
    const float* min_logvar = nullptr;    // [S+1], gaussian only
    const float* max_logvar = nullptr;    // [S+1], gaussian only
};

// What a rollout is asked. Particle p of ts_inf follows member p % K for ever; of ts1 it follows member
// permutation_h[p] % K in step h, where permutation_h of the P particles is drawn from the problem's seed and
// is the same for all candidates. Both are stratified: in every step each member moves P / K particles of
// each candidate.
struct RolloutRequest {
    const float* observation = nullptr;    // [B, S]
    const float* actions = nullptr;        // [B, N, H, A]
    const std::uint64_t* seeds = nullptr;  // [B]
    int problems = 0;
    int candidates = 0;
    int horizon = 0;
    int particles = 0;  // a multiple of K
    Propagation propagation = Propagation::ts_inf;
    float gamma = 1.0F;
    bool sample = false;  // gaussian members: draw (delta, reward) instead of using the mean
};

// The member that moves particle p in step h, as [horizon, particles]; the definition of `propagation`.
std::vector<std::int32_t> particle_members(std::uint64_t seed, int horizon, int particles, int num_members,
                                           Propagation propagation);

// Zeroed floats on a cache-line boundary.
using AlignedFloats = std::unique_ptr<float[], void (*)(void*)>;
AlignedFloats make_aligned_floats(std::size_t count);

struct Variant;     // one instruction set's kernel, src/ensemble_kernel.h
class PackedModel;  // weights in that kernel's layout, src/ensemble_pack.h
class ThreadPool;

// An ensemble with its weights packed for one instruction set. Results are the same, bit for bit, for any
// number of threads, and for a problem alone or in a batch. States, sums and noise are float32; bf16 rounds
// weights and layer inputs only. A NaN in an observation, action or prediction gives NaN for the returns it
// reaches, never another candidate's. Methods may be called from several threads; they take turns.
class Ensemble {
  public:
    // Packs the weights, O(their size). isa forces "scalar", "avx2", "avx512", "avx512bf16" or "amx";
    // otherwise the best one of the precision. Throws std::invalid_argument for inconsistent shapes or what
    // the machine lacks.
    Ensemble(const EnsembleWeights& weights, Precision precision, const std::optional<std::string>& isa,
             int threads);
    // With a given kernel, whether or not it is the best: for tests.
    Ensemble(const EnsembleWeights& weights, const Variant& variant, int threads);
    ~Ensemble();

    int num_members() const;
    int state_size() const;
    int action_size() const;
    bool is_gaussian() const;
    std::string_view isa() const;
    Precision precision() const;
    int threads() const;

    // Throws std::invalid_argument, naming the value, for a request that no call can serve.
    void check(const RolloutRequest& request) const;

    // Returns sum_h gamma^h prod_{j<h}(1 - done_j) reward_h of every particle into returns [B, N, P].
    // B N P H forward passes; request must pass check(). With `states`, their paths [B, N, P, H+1, S] as
    // well.
    void rollout(const RolloutRequest& request, float* returns, float* states = nullptr);

    // As rollout with N = 1, but keeps the path: states [B, P, H+1, S] (the first is the observation),
    // rewards [B, P, H].
    void trajectories(const RolloutRequest& request, float* states, float* rewards);

    // Every member's prediction for M rows: mean and variance [K, M, S+1] of (state delta, reward) in
    // physical units (variance 0 unless gaussian), done [K, M] the probability of termination (0 without).
    void predict(const float* state, const float* action, std::int64_t rows, float* mean, float* variance,
                 float* done);

  private:
    struct Destination;
    struct PanelRows;
    void run(const RolloutRequest& request, const Destination& destination);
    float* scratch(int thread) const;

    const Variant& variant_;
    std::unique_ptr<PackedModel> model_;
    std::unique_ptr<ThreadPool> pool_;  // its loops take turns, so the scratch has one user at a time
    AlignedFloats scratch_;
};

}  // namespace native
