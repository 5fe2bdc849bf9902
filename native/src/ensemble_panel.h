// One panel of rows through the horizon: input, network, heads, noise, next state and return, for any network
// type Net (Fp32Net, Bf16Net, TileNet). Anonymous namespace for the reason given in ensemble_kernel.h.
#pragma once

#include "ensemble_math.h"

namespace native {
namespace {

template <class Net>
struct Panels {
    using V = typename Net::Lanes;
    using F = typename V::F;
    static constexpr int rows = Net::rows;

    // The parts of the scratch; each [feature][row].
    struct Scratch {
        Scratch(const ModelView& model, float* memory)
            : state(memory),
              input(state + model.widest * rows),
              output(input + model.widest * rows),
              work(output + model.widest * rows) {}
        float* state;
        float* input;
        float* output;
        float* work;
    };

    // The heads' prediction of one dimension of (state delta, reward), for one vector of rows.
    static F mean(const ModelView& m, const float* output, int d, int first_row) {
        return V::fma(V::load(output + d * rows + first_row), V::set(m.output_scale[d]),
                      V::set(m.output_shift[d]));
    }

    // Both soft clamps of Chua et al. (2018), "Deep Reinforcement Learning in a Handful of Trials", at once,
    // in normalised units: var = e^min + 1 / (e^-max + e^-logvar), which needs no logarithm.
    static F variance(const ModelView& m, const float* output, int d, int first_row) {
        const F logvar = V::load(output + (m.state_size + 1 + d) * rows + first_row);
        const F inverse =
            V::add(V::set(m.exp_neg_max_logvar[d]), exponential<V>(V::sub(V::set(0.0F), logvar)));
        return V::add(V::set(m.exp_min_logvar[d]), V::refined_reciprocal(inverse));
    }

    static F termination_logit(const ModelView& m, const float* output, int first_row) {
        const int index = (m.gaussian ? 2 : 1) * (m.state_size + 1);
        return V::load(output + index * rows + first_row);
    }

    static void normalise(const ModelView& m, int feature, const float* raw, float* input) {
        const F shift = V::set(m.input_shift[feature]);
        const F scale = V::set(m.input_scale[feature]);
        for (int r = 0; r < rows; r += V::lanes)
            V::store(input + feature * rows + r, V::mul(V::sub(V::load(raw + r), shift), scale));
    }

    static void load_state(const ModelView& m, const float* const* states, float* state) {
        for (int r = 0; r < rows; ++r)
            for (int d = 0; d < m.state_size; ++d) state[d * rows + r] = states[r][d];
    }

    static void fill_input(const ModelView& m, const float* state, const float* const* actions, int step,
                           float* input) {
        for (int d = 0; d < m.state_size; ++d) normalise(m, d, state + d * rows, input);
        alignas(64) float raw[rows];
        for (int a = 0; a < m.action_size; ++a) {
            const std::ptrdiff_t offset = static_cast<std::ptrdiff_t>(step) * m.action_size + a;
            for (int r = 0; r < rows; ++r) raw[r] = actions[r][offset];
            normalise(m, m.state_size + a, raw, input);
        }
    }

    // Moves one vector of rows by the network's output; returns the rewards.
    static F advance(const ModelView& m, const RolloutPanel& panel, int step, int first_row,
                     const float* output, float* state) {
        const bool sample = panel.sample && m.gaussian;
        const auto candidate = V::load(panel.candidate + first_row);
        const auto particle = V::load(panel.particle + first_row);
        const auto key0 = V::load(panel.seed_low + first_row);
        const auto key1 = V::load(panel.seed_high + first_row);
        F noise[4];
        F value = V::set(0.0F);
        for (int d = 0; d <= m.state_size; ++d) {
            value = mean(m, output, d, first_row);
            if (sample) {
                if (d % 4 == 0) {
                    normals<V>(candidate, particle, static_cast<std::uint32_t>(step),
                               static_cast<std::uint32_t>(d / 4), key0, key1, noise);
                }
                const F sigma = V::mul(V::sqrt(variance(m, output, d, first_row)), V::set(m.output_scale[d]));
                value = V::fma(sigma, noise[d % 4], value);
            }
            if (d < m.state_size) {
                float* place = state + d * rows + first_row;
                V::store(place, V::add(V::load(place), value));
            }
        }
        return value;
    }

    static void keep_state(const ModelView& m, const RolloutPanel& panel, int step, const float* state) {
        if (panel.trajectory == nullptr) return;
        for (int r = 0; r < panel.rows; ++r) {
            float* place = panel.trajectory[r] + static_cast<std::ptrdiff_t>(step) * m.state_size;
            for (int d = 0; d < m.state_size; ++d) place[d] = state[d * rows + r];
        }
    }

    static void rollout(const ModelView& m, const RolloutPanel& panel, float* memory) {
        const Scratch s(m, memory);
        alignas(64) float rewards[rows];
        alignas(64) float returns[rows] = {};
        alignas(64) float alive[rows];
        for (float& probability : alive) probability = 1.0F;
        load_state(m, panel.states, s.state);
        keep_state(m, panel, 0, s.state);
        float discount = 1.0F;
        for (int step = 0; step < panel.horizon; ++step) {
            fill_input(m, s.state, panel.actions, step, s.input);
            Net::forward(m, panel.members[step * panel.members_stride], s.input, s.output, s.work);
            for (int r = 0; r < rows; r += V::lanes) {
                const F reward = advance(m, panel, step, r, s.output, s.state);
                const F weight = V::mul(V::set(discount), V::load(alive + r));
                V::store(rewards + r, reward);
                V::store(returns + r, V::fma(weight, reward, V::load(returns + r)));
                if (m.has_termination) {
                    // 1 - sigmoid(logit) without the cancellation.
                    const F survival = sigmoid<V>(termination_logit(m, s.output, r), -1.0F);
                    V::store(alive + r, V::mul(V::load(alive + r), survival));
                }
            }
            keep_state(m, panel, step + 1, s.state);
            if (panel.rewards != nullptr)
                for (int r = 0; r < panel.rows; ++r) panel.rewards[r][step] = rewards[r];
            discount *= panel.gamma;
        }
        // A NaN that appears in the last step's state has no later reward to show it.
        for (int d = 0; d < m.state_size; ++d)
            for (int r = 0; r < rows; r += V::lanes)
                V::store(returns + r, V::nan_if_nan(V::load(returns + r), V::load(s.state + d * rows + r)));
        if (panel.returns != nullptr)
            for (int r = 0; r < panel.rows; ++r) *panel.returns[r] = returns[r];
    }

    static void predict(const ModelView& m, const PredictPanel& panel, float* memory) {
        const Scratch s(m, memory);
        const int width = m.state_size + 1;
        load_state(m, panel.states, s.state);
        fill_input(m, s.state, panel.actions, 0, s.input);
        Net::forward(m, panel.member, s.input, s.output, s.work);
        alignas(64) float means[rows];
        alignas(64) float variances[rows];
        for (int d = 0; d < width; ++d) {
            for (int r = 0; r < rows; r += V::lanes) {
                V::store(means + r, mean(m, s.output, d, r));
                const F square = V::set(m.output_scale[d] * m.output_scale[d]);
                V::store(variances + r,
                         m.gaussian ? V::mul(variance(m, s.output, d, r), square) : V::set(0.0F));
            }
            for (int r = 0; r < panel.rows; ++r) {
                panel.mean[r * width + d] = means[r];
                panel.variance[r * width + d] = variances[r];
            }
        }
        alignas(64) float done[rows] = {};
        if (m.has_termination) {
            for (int r = 0; r < rows; r += V::lanes)
                V::store(done + r, sigmoid<V>(termination_logit(m, s.output, r)));
        }
        for (int r = 0; r < panel.rows; ++r) panel.done[r] = done[r];
    }
};

// Wide panels, and narrow ones for what is left over, so that a small population does not pay for empty
// lanes. Both compute a row by the same operations in the same order; kernels are compiled without
// contraction to keep it so.
template <class Wide, class Narrow>
struct MixedPanels {
    static constexpr int rows = Wide::rows;
    static_assert(Narrow::rows < Wide::rows);

    static void rollout(const ModelView& model, const RolloutPanel& panel, float* memory) {
        if (panel.rows <= Narrow::rows) return Panels<Narrow>::rollout(model, panel, memory);
        Panels<Wide>::rollout(model, panel, memory);
    }

    static void predict(const ModelView& model, const PredictPanel& panel, float* memory) {
        if (panel.rows <= Narrow::rows) return Panels<Narrow>::predict(model, panel, memory);
        Panels<Wide>::predict(model, panel, memory);
    }
};

}  // namespace
}  // namespace native
