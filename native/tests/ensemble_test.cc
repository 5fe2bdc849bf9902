// Checks of the ensemble kernel that need no Python; run under the sanitizers too. The AMX data flow runs
// here on an emulated tile unit, so that packing, tiling and padding are verified on machines without AMX.
#include "native/ensemble.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../src/ensemble_dispatch.h"
#include "../src/ensemble_net_tiles.h"
#include "../src/ensemble_panel.h"
#include "../src/lanes_portable.h"
#include "check.h"
#include "native/rng.h"
#include "native/threads.h"

using namespace native;

namespace {

void expect_refused(const std::function<void()>& call, const char* value, const char* what) {
    try {
        call();
    } catch (const std::invalid_argument& error) {
        expect(std::strstr(error.what(), value) != nullptr, what);
        return;
    }
    expect(false, what);
}

float from_bf16(std::uint16_t x) {
    const std::uint32_t word = std::uint32_t{x} << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

// The tile unit in plain C++: eight tiles of 16 rows of 64 bytes; a load or store without configure() is a
// fault.
struct EmulatedTiles {
    static inline thread_local unsigned char tiles[8][16][64];
    static inline thread_local bool configured = false;

    static void configure() { configured = true; }
    static void release() {
        configured = false;
        std::memset(tiles, 0xFF, sizeof tiles);
    }
    template <int t>
    static void zero() {
        std::memset(tiles[t], 0, sizeof tiles[t]);
    }
    template <int t>
    static void load(const void* p, int stride) {
        expect(configured, "tiles are configured before a load");
        for (int row = 0; row < 16; ++row)
            std::memcpy(tiles[t][row], static_cast<const char*>(p) + row * stride, 64);
    }
    template <int t>
    static void store(void* p, int stride) {
        for (int row = 0; row < 16; ++row)
            std::memcpy(static_cast<char*>(p) + row * stride, tiles[t][row], 64);
    }
    template <int c, int a, int b>
    static void multiply() {
        for (int n = 0; n < 16; ++n) {
            for (int row = 0; row < 16; ++row) {
                float sum;
                std::memcpy(&sum, &tiles[c][n][row * 4], 4);
                for (int k = 0; k < 16; ++k) {
                    std::uint16_t left[2], right[2];
                    std::memcpy(left, &tiles[a][n][k * 4], 4);
                    std::memcpy(right, &tiles[b][k][row * 4], 4);
                    sum += from_bf16(left[0]) * from_bf16(right[0]);
                    sum += from_bf16(left[1]) * from_bf16(right[1]);
                }
                std::memcpy(&tiles[c][n][row * 4], &sum, 4);
            }
        }
    }
};

using EmulatedPanels =
    MixedPanels<TileNet<Portable, EmulatedTiles, 64>, TileNet<Portable, EmulatedTiles, 32>>;

const Variant emulated_variant = {
    "emulated", Precision::bf16,         Layout::bf16_tiles,      EmulatedPanels::rows,
    16,         EmulatedPanels::rollout, EmulatedPanels::predict,
};

// Deterministic values in [-1, 1) from a counter.
struct Stream {
    std::uint64_t key;
    std::uint32_t next = 0;
    float operator()() {
        return static_cast<float>(philox4x32({next++, 0, 0, 0}, key)[0] >> 8) * 0x1p-23F - 1.0F;
    }
    std::vector<float> take(std::size_t count, float scale = 1.0F) {
        std::vector<float> values(count);
        for (float& value : values) value = scale * (*this)();
        return values;
    }
};

// Owns the arrays of an ensemble; identity normalisation unless `scaled`.
struct Model {
    Model(int members, int state, int action, std::vector<int> hidden, Activation activation, bool gaussian,
          bool termination, bool scaled)
        : stream{99} {
        weights.num_members = members;
        weights.state_size = state;
        weights.action_size = action;
        weights.gaussian = gaussian;
        weights.has_termination = termination;
        weights.activation = activation;
        hidden.push_back((gaussian ? 2 : 1) * (state + 1) + (termination ? 1 : 0));
        arrays.reserve(32);
        int in = state + action;
        for (const int out : hidden) {
            const auto size = static_cast<std::size_t>(members) * static_cast<std::size_t>(out);
            const float* weight =
                keep(stream.take(size * static_cast<std::size_t>(in), 1.7F / std::sqrt(float(in))));
            weights.layers.push_back({in, out, weight, keep(stream.take(size, 0.2F))});
            in = out;
        }
        const auto inputs = static_cast<std::size_t>(state + action);
        const auto outputs = static_cast<std::size_t>(state + 1);
        weights.input_shift = keep(stream.take(inputs, scaled ? 0.3F : 0.0F));
        weights.input_scale = keep(std::vector<float>(inputs, scaled ? 0.7F : 1.0F));
        weights.output_shift = keep(stream.take(outputs, scaled ? 0.1F : 0.0F));
        weights.output_scale = keep(std::vector<float>(outputs, scaled ? 0.2F : 1.0F));
        weights.min_logvar = keep(std::vector<float>(outputs, -6.0F));
        weights.max_logvar = keep(std::vector<float>(outputs, 0.5F));
    }

    const float* keep(std::vector<float> values) {
        arrays.push_back(std::move(values));
        return arrays.back().data();
    }

    Stream stream;
    EnsembleWeights weights;
    std::vector<std::vector<float>> arrays;
};

struct Problem {
    Problem(const EnsembleWeights& w, int problems, int candidates, int horizon, int particles) {
        Stream stream{7};
        observation = stream.take(static_cast<std::size_t>(problems * w.state_size));
        actions = stream.take(static_cast<std::size_t>(problems * candidates * horizon * w.action_size));
        for (int b = 0; b < problems; ++b)
            seeds.push_back(0x123456789ABCDEFULL * static_cast<std::uint64_t>(b + 1));
        request.problems = problems;
        request.candidates = candidates;
        request.horizon = horizon;
        request.particles = particles;
        request.gamma = 0.95F;
        request.sample = true;
        point();
    }
    void point() {
        request.observation = observation.data();
        request.actions = actions.data();
        request.seeds = seeds.data();
    }
    std::vector<float> rollout(Ensemble& ensemble) const {
        ensemble.check(request);
        const RolloutRequest& r = request;
        std::vector<float> returns(static_cast<std::size_t>(r.problems * r.candidates * r.particles));
        ensemble.rollout(r, returns.data());
        return returns;
    }
    std::vector<float> observation, actions;
    std::vector<std::uint64_t> seeds;
    RolloutRequest request;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    float largest = 0.0F;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const float difference = std::fabs(a[i] - b[i]);
        if (!(difference <= largest)) largest = difference;  // NaN counts
    }
    return largest;
}

std::vector<const Variant*> variants_here() {
    std::vector<const Variant*> variants = {&scalar_variant, &emulated_variant};
    const CpuFeatures& cpu = cpu_features();
    if (cpu.avx2) variants.push_back(&avx2_variant);
    if (cpu.avx512) variants.push_back(&avx512_variant);
    if (cpu.avx512bf16) variants.push_back(&avx512bf16_variant);
    if (cpu.amx_bf16) variants.push_back(&amx_variant);
    return variants;
}

// Known answers of Random123's kat_vectors for philox4x32 with 10 rounds.
void test_philox() {
    using Words = Philox4x32;
    expect(philox4x32({0, 0, 0, 0}, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
           "philox of zeros");
    expect(philox4x32({~0U, ~0U, ~0U, ~0U}, ~0ULL) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
           "philox of ones");
    expect(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822ULL) ==
               Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
           "philox of pi");
}

void test_thread_pool() {
    expect_refused([] { ThreadPool pool(0); }, "0", "a pool of 0 threads");
    ThreadPool pool(3);
    for (const int count : {0, 1, 2, 1000}) {
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
        pool.run(count,
                 [&](std::int64_t index, int) { visits[static_cast<std::size_t>(index)].fetch_add(1); });
        for (const auto& visit : visits) expect(visit.load() == 1, "every index once");
    }
    std::atomic<int> total{0};
    const auto caller = [&] {
        for (int i = 0; i < 50; ++i) pool.run(10, [&](std::int64_t, int) { total.fetch_add(1); });
    };
    std::thread other(caller);
    caller();
    other.join();
    expect(total.load() == 1000, "loops of two callers");
}

void test_dispatch() {
    const CpuFeatures none, avx2{true, false, false, false}, avx512{true, true, false, false};
    const CpuFeatures bf16{true, true, true, false}, amx{true, true, true, true};
    const auto name = [](Precision precision, const CpuFeatures& cpu) {
        return std::string(choose_variant(precision, {}, cpu).name);
    };
    expect(name(Precision::automatic, none) == "scalar" && name(Precision::automatic, avx512) == "avx512",
           "auto, fp32");
    expect(name(Precision::automatic, bf16) == "avx512bf16" && name(Precision::automatic, amx) == "amx",
           "auto, bf16");
    expect(name(Precision::fp32, amx) == "avx512" && name(Precision::fp32, avx2) == "avx2", "fp32");
    expect_refused([&] { choose_variant(Precision::bf16, {}, avx512); }, "bf16", "bf16 without hardware");
    expect_refused([&] { choose_variant(Precision::automatic, "amx", bf16); }, "amx", "amx without hardware");
    expect_refused([&] { choose_variant(Precision::bf16, "scalar", amx); }, "scalar", "scalar in bf16");
    expect_refused([&] { choose_variant(Precision::automatic, "sse9", amx); }, "sse9", "an unknown isa");
}

// The network of one member and one row in the arithmetic of the tiles, straight from the unpacked weights.
std::vector<float> reference_network(const EnsembleWeights& w, int member, std::vector<float> x) {
    const auto round = [](float value) { return from_bf16(Portable::round_bf16(value)); };
    for (std::size_t l = 0; l < w.layers.size(); ++l) {
        const auto& layer = w.layers[l];
        std::vector<float> y(static_cast<std::size_t>(layer.out));
        for (int n = 0; n < layer.out; ++n) {
            float sum = 0.0F;
            for (int k = 0; k < layer.in; ++k) {
                const float weight = layer.weight[(member * layer.in + k) * layer.out + n];
                sum += round(weight) * round(x[static_cast<std::size_t>(k)]);
            }
            sum += layer.bias[member * layer.out + n];
            y[static_cast<std::size_t>(n)] = l + 1 < w.layers.size() ? std::fmax(0.0F, sum) : sum;
        }
        x = y;
    }
    return x;
}

void test_emulated_tiles_bit_for_bit() {
    const std::vector<std::vector<int>> hidden_sizes = {{}, {1}, {16}, {40, 70}, {33, 64, 15}, {96, 64}};
    for (const auto& hidden : hidden_sizes) {
        Model model(2, 3, 2, hidden, Activation::relu, false, false, false);
        const EnsembleWeights& w = model.weights;
        Ensemble ensemble(w, emulated_variant, 1);
        const int rows = 70;
        const auto state = model.stream.take(rows * 3), action = model.stream.take(rows * 2);
        std::vector<float> mean(2 * rows * 4), variance(2 * rows * 4), done(2 * rows);
        ensemble.predict(state.data(), action.data(), rows, mean.data(), variance.data(), done.data());
        bool equal = true;
        for (int member = 0; member < 2; ++member) {
            for (int row = 0; row < rows; ++row) {
                std::vector<float> x(state.begin() + row * 3, state.begin() + row * 3 + 3);
                x.insert(x.end(), action.begin() + row * 2, action.begin() + row * 2 + 2);
                const auto expected = reference_network(w, member, x);
                equal = equal && std::memcmp(&mean[static_cast<std::size_t>((member * rows + row) * 4)],
                                             expected.data(), sizeof(float) * 4) == 0;
            }
        }
        expect(equal, "the tiles' network equals the plain one bit for bit");
    }
}

void test_variants_agree() {
    const std::vector<std::vector<int>> hidden_sizes = {{}, {7}, {40, 70}, {61, 13, 32}};
    for (const auto activation : {Activation::silu, Activation::relu, Activation::tanh, Activation::elu}) {
        for (const auto& hidden : hidden_sizes) {
            for (const auto propagation : {Propagation::ts_inf, Propagation::ts1}) {
                Model model(3, 5, 2, hidden, activation, true, true, true);
                Problem problem(model.weights, 2, 11, 3, 6);
                problem.request.propagation = propagation;
                Ensemble scalar(model.weights, scalar_variant, 1);
                const auto expected = problem.rollout(scalar);
                for (const Variant* variant : variants_here()) {
                    Ensemble ensemble(model.weights, *variant, 2);
                    const float tolerance = variant->precision == Precision::bf16 ? 2e-2F : 2e-6F;
                    expect(largest_difference(problem.rollout(ensemble), expected) < tolerance,
                           variant->name);
                }
            }
        }
    }
}

// The same bits for any number of threads, for a problem alone, and for a candidate among fewer others.
void test_independence() {
    Model model(2, 4, 1, {24, 24}, Activation::silu, true, true, true);
    for (const Variant* variant : variants_here()) {
        for (const auto propagation : {Propagation::ts_inf, Propagation::ts1}) {
            Problem batch(model.weights, 3, 75, 3, 4);
            batch.request.propagation = propagation;
            Ensemble one(model.weights, *variant, 1), three(model.weights, *variant, 3);
            const auto returns = batch.rollout(one);
            expect(same_bits(returns, batch.rollout(three)), "threads change nothing");
            for (int b = 0; b < 3; ++b) {
                Problem single(model.weights, 1, 70, 3, 4);
                single.request.propagation = propagation;
                single.observation.assign(batch.observation.begin() + b * 4,
                                          batch.observation.begin() + b * 4 + 4);
                single.actions.assign(batch.actions.begin() + b * 75 * 3,
                                      batch.actions.begin() + b * 75 * 3 + 70 * 3);
                single.seeds = {batch.seeds[static_cast<std::size_t>(b)]};
                single.point();
                const std::vector<float> part(returns.begin() + b * 300, returns.begin() + b * 300 + 280);
                expect(same_bits(part, single.rollout(three)), "a problem alone equals one in a batch");
            }
        }
    }
}

void test_nan_stays_with_its_candidate() {
    Model model(2, 4, 1, {24, 24}, Activation::relu, true, false, true);
    for (const Variant* variant : variants_here()) {
        Problem problem(model.weights, 1, 40, 3, 2);
        Ensemble ensemble(model.weights, *variant, 1);
        const auto clean = problem.rollout(ensemble);
        problem.actions[5 * 3 + 2] = std::numeric_limits<float>::quiet_NaN();  // candidate 5, last step
        const auto returns = problem.rollout(ensemble);
        for (std::size_t i = 0; i < returns.size(); ++i) {
            const bool poisoned = i / 2 == 5;
            expect(poisoned ? std::isnan(returns[i]) : returns[i] == clean[i],
                   "NaN reaches its candidate only");
        }
        problem.actions[5 * 3 + 2] = 0.25F;
        const auto later = problem.rollout(ensemble);
        for (const float value : later) expect(!std::isnan(value), "no NaN stays behind in the scratch");
        problem.observation[0] = std::numeric_limits<float>::quiet_NaN();
        for (const float value : problem.rollout(ensemble)) expect(std::isnan(value), "a NaN observation");
    }
    // A NaN in the last state alone: only member 1's first state output is broken.
    Model broken(2, 4, 1, {8}, Activation::relu, false, false, true);
    broken.arrays[3][5] =
        std::numeric_limits<float>::quiet_NaN();  // bias of the last layer [2, 5]: member 1, state 0
    Problem problem(broken.weights, 1, 3, 1, 2);
    Ensemble ensemble(broken.weights, scalar_variant, 1);
    const auto returns = problem.rollout(ensemble);
    for (std::size_t i = 0; i < returns.size(); ++i)
        expect(std::isnan(returns[i]) == (i % 2 == 1), "a NaN in the last state shows in the return");
}

void test_trajectories_sum_to_returns() {
    Model model(2, 3, 1, {16}, Activation::tanh, true, false, true);
    Problem problem(model.weights, 3, 1, 5, 4);
    Ensemble ensemble(model.weights, scalar_variant, 2);
    const auto returns = problem.rollout(ensemble);
    std::vector<float> states(3 * 4 * 6 * 3), rewards(3 * 4 * 5);
    ensemble.trajectories(problem.request, states.data(), rewards.data());
    for (std::size_t cell = 0; cell < 12; ++cell) {
        float sum = 0.0F, discount = 1.0F;
        for (std::size_t h = 0; h < 5; ++h, discount *= 0.95F) sum += discount * rewards[cell * 5 + h];
        expect(std::fabs(sum - returns[cell]) < 1e-6F, "discounted rewards give the return");
        for (std::size_t d = 0; d < 3; ++d)
            expect(states[cell * 18 + d] == problem.observation[cell / 4 * 3 + d],
                   "paths start at the observation");
    }
}

void test_particle_members() {
    for (const auto propagation : {Propagation::ts_inf, Propagation::ts1}) {
        const auto table = particle_members(42, 50, 6, 3, propagation);
        bool moved = false;
        for (std::size_t step = 0; step < 50; ++step) {
            int count[3] = {};
            for (std::size_t p = 0; p < 6; ++p) {
                const int member = table[step * 6 + p];
                ++count[member];
                moved = moved || member != static_cast<int>(p % 3);
            }
            expect(count[0] == 2 && count[1] == 2 && count[2] == 2, "every step is stratified");
        }
        expect(moved == (propagation == Propagation::ts1), "only ts1 moves particles between members");
    }
}

void test_refusals() {
    Model model(3, 2, 1, {8}, Activation::silu, false, false, true);
    Ensemble ensemble(model.weights, scalar_variant, 1);
    Problem problem(model.weights, 1, 2, 2, 3);
    const auto refused = [&](auto change, const char* value, const char* what) {
        RolloutRequest request = problem.request;
        change(request);
        expect_refused([&] { ensemble.check(request); }, value, what);
    };
    refused([](RolloutRequest& r) { r.particles = 4; }, "4", "particles that are no multiple of the members");
    refused([](RolloutRequest& r) { r.particles = 0; }, "0", "no particles");
    refused([](RolloutRequest& r) { r.horizon = 0; }, "0", "an empty horizon");
    refused([](RolloutRequest& r) { r.candidates = -1; }, "-1", "negative candidates");
    refused([](RolloutRequest& r) { r.gamma = 1.5F; }, "1.5", "gamma above 1");
    refused([](RolloutRequest& r) { r.gamma = std::nanf(""); }, "nan", "a NaN gamma");
    EnsembleWeights wrong = model.weights;
    wrong.layers.back().out = 5;
    expect_refused([&] { Ensemble(wrong, scalar_variant, 1); }, "5", "a last layer of the wrong width");
    wrong.layers.clear();
    expect_refused([&] { Ensemble(wrong, scalar_variant, 1); }, "0", "no layers");
}

}  // namespace

int main() {
    test_philox();
    test_thread_pool();
    test_dispatch();
    test_emulated_tiles_bit_for_bit();
    test_variants_agree();
    test_independence();
    test_nan_stays_with_its_candidate();
    test_trajectories_sum_to_returns();
    test_particle_members();
    test_refusals();
    return failures == 0 ? 0 : 1;
}
