// Checks of the search that need no Python; run under the sanitizers too.
#include "native/search.h"

#include <cmath>
#include <cstdio>
#include <limits>

#include "check.h"

using namespace native;

namespace {

SearchCarry fresh_carry(const Search& search, int problems) {
    SearchCarry carry;
    carry.mean.assign(static_cast<size_t>(problems) * search.sequence_size(), 0.0f);
    carry.elites.assign(carry.mean.size() * search.num_kept(), 0.0f);
    carry.has_elites.assign(problems, 0);
    carry.step.assign(problems, 0);
    for (int b = 0; b < problems; ++b) carry.seed.push_back(17 + b);
    return carry;
}

// Score of a sequence: the negative squared distance of every action to (0.3, -0.2); NaN right of `cliff`.
std::vector<float> quadratic(const std::vector<float>& candidates, int size, float cliff) {
    std::vector<float> scores;
    for (size_t start = 0; start < candidates.size(); start += size) {
        float score = -100.0f;
        for (int i = 0; i < size; ++i) {
            const float x = candidates[start + i] - (i % 2 == 0 ? 0.3f : -0.2f);
            score -= x * x;
            if (candidates[start + i] > cliff) score = std::numeric_limits<float>::quiet_NaN();
        }
        scores.push_back(score);
    }
    return scores;
}

std::vector<float> solve(const SearchConfig& config, SearchCarry carry, float cliff,
                         SearchCarry* next = nullptr) {
    auto search = std::make_shared<Search>(config, std::vector<float>{-1, -1}, std::vector<float>{1, 1});
    const std::vector<uint8_t> is_first(carry.seed.size(), 0);
    SearchState state(search, std::move(carry), is_first);
    for (int i = 0; i < config.iterations; ++i) {
        const std::vector<float>& candidates = state.ask();
        for (float x : candidates) expect(x >= -1.0f && x <= 1.0f, "candidates stay inside the box");
        state.tell(quadratic(candidates, search->sequence_size(), cliff).data());
    }
    if (next) *next = state.carry();
    return state.plan();
}

SearchConfig icem() {
    SearchConfig config;
    config.horizon = 5;
    config.population = 200;
    config.elites = 20;
    config.iterations = 8;
    config.noise_beta = 2.0;
    config.population_decay = 1.25;
    config.keep_fraction = 0.3;
    config.include_mean = true;
    config.execute_best = true;
    return config;
}

void test_optimum() {
    SearchConfig cem = icem();
    cem.noise_beta = 0.0;
    cem.execute_best = false;
    SearchConfig truncated = cem;
    truncated.sampling = Sampling::kTruncated;
    SearchConfig mppi = cem;
    mppi.weighting = Weighting::kSoftmax;
    mppi.update_std = false;
    mppi.population_decay = 1.0;
    mppi.keep_fraction = 0.0;
    mppi.population = 2000;
    mppi.elites = 2000;
    mppi.temperature = 0.05;
    mppi.init_std = 0.2;
    mppi.momentum = 0.0;
    for (const SearchConfig& config : {icem(), cem, truncated, mppi}) {
        const Search search(config, {-1, -1}, {1, 1});
        const std::vector<float> plan = solve(config, fresh_carry(search, 1), 0.5f);
        for (size_t i = 0; i < plan.size(); ++i) {
            expect(std::abs(plan[i] - (i % 2 == 0 ? 0.3f : -0.2f)) < 0.1f, "the plan reaches the optimum");
        }
    }
}

void test_batch_equals_single() {
    const SearchConfig config = icem();
    const Search search(config, {-1, -1}, {1, 1});
    SearchCarry next;
    const std::vector<float> batched = solve(config, fresh_carry(search, 3), 0.5f, &next);
    for (int b = 0; b < 3; ++b) {
        SearchCarry carry = fresh_carry(search, 1);
        carry.seed[0] = 17 + b;
        SearchCarry alone;
        const std::vector<float> single = solve(config, carry, 0.5f, &alone);
        const size_t size = single.size();
        expect(std::equal(single.begin(), single.end(), batched.begin() + b * size),
               "batched plan equals single plan");
        expect(std::equal(alone.elites.begin(), alone.elites.end(),
                          next.elites.begin() + b * alone.elites.size()),
               "batched elites equal single elites");
    }
}

void test_all_candidates_fail() {
    const Search search(icem(), {-1, -1}, {1, 1});
    SearchCarry next;
    const std::vector<float> plan = solve(icem(), fresh_carry(search, 1), -2.0f, &next);
    for (float x : plan) expect(x == 0.0f, "without a finite score the mean stays");
    expect(next.has_elites[0] == 0, "without a finite score there are no elites");
}

void test_turns_and_arguments() {
    auto search = std::make_shared<Search>(icem(), std::vector<float>{-1, -1}, std::vector<float>{1, 1});
    SearchState state(search, fresh_carry(*search, 1), {1});
    expect(raises([&] { state.tell(nullptr); }), "tell before ask is refused");
    state.ask();
    expect(raises([&] { state.ask(); }), "two asks are refused");
    SearchConfig bad = icem();
    bad.elites = 201;
    expect(raises([&] { Search(bad, {-1}, {1}); }), "more elites than candidates are refused");
    expect(raises([&] { Search(icem(), {1}, {-1}); }), "an empty box is refused");
    expect(raises([&] { Search(icem(), {-INFINITY}, {1}); }), "an unbounded box is refused");
}

}  // namespace

int main() {
    test_optimum();
    test_batch_equals_single();
    test_all_candidates_fail();
    test_turns_and_arguments();
    if (failures == 0) std::puts("search_test: ok");
    return failures == 0 ? 0 : 1;
}
