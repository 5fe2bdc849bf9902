// Checks of the tree search that need no Python; run under the sanitizers too.
#include "native/mcts.h"

#include <cmath>
#include <cstdio>
#include <limits>

#include "check.h"

using namespace native;

namespace {

// A model whose evaluations are a function of the root, the node's parent and the action.
struct Model {
    int num_actions;
    std::vector<float> logits, value, reward, discount;

    Model(int roots, int actions)
        : num_actions(actions), logits(roots * actions), value(roots), reward(roots), discount(roots) {}
    static float noise(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
        return static_cast<float>(std::sin(12.9898 * a + 78.233 * b + 37.719 * c + 11.135 * d));
    }
    void evaluate(const std::vector<std::int64_t>& parent, const std::vector<std::int64_t>& action,
                  std::int64_t first) {
        for (std::size_t b = 0; b < parent.size(); ++b) {
            const std::int64_t root = first + static_cast<std::int64_t>(b);
            for (int a = 0; a < num_actions; ++a)
                logits[b * num_actions + a] = 2.0f * noise(root, parent[b], action[b], a);
            value[b] = noise(root, parent[b], action[b], -1);
            reward[b] = 0.1f * noise(root, parent[b], action[b], -2);
            discount[b] = 0.9f;
        }
    }
};

struct Outcome {
    std::vector<std::int32_t> visits, parent, action, node_visits;
    std::vector<float> q, value, weights, node_value;
    std::vector<std::int64_t> best;
};

Outcome run(Mcts& search, int roots, std::int64_t first, bool masked) {
    const int A = search.config().num_actions, S = search.config().simulations;
    Model model(roots, A);
    std::vector<std::int64_t> parent(roots, -1), action(roots, -1);
    std::vector<std::uint64_t> seeds;
    std::vector<std::uint8_t> invalid(roots * A, 0);
    for (int b = 0; b < roots; ++b) {
        seeds.push_back(static_cast<std::uint64_t>(first + b));
        invalid[b * A + static_cast<int>((first + b) % A)] = A > 1;
    }
    model.evaluate(parent, action, first);
    search.begin(roots, model.logits.data(), model.value.data(), masked ? invalid.data() : nullptr,
                 seeds.data(), parent.data(), action.data());
    while (!search.done()) {
        model.evaluate(parent, action, first);
        search.expand(model.logits.data(), model.value.data(), model.reward.data(), model.discount.data(),
                      parent.data(), action.data());
    }
    Outcome out;
    out.visits.resize(roots * A), out.q.resize(roots * A), out.weights.resize(roots * A);
    out.value.resize(roots), out.best.resize(roots);
    out.parent.resize(roots * (S + 1)), out.action.resize(roots * (S + 1));
    out.node_visits.resize(roots * (S + 1)), out.node_value.resize(roots * (S + 1));
    search.root(out.visits.data(), out.q.data(), out.value.data());
    search.policy(out.weights.data(), out.best.data());
    search.nodes(out.parent.data(), out.action.data(), out.node_visits.data(), out.node_value.data());
    return out;
}

void test_counts_add_up(Selection selection, int actions, int simulations, int max_depth, bool masked) {
    MctsConfig config;
    config.num_actions = actions;
    config.simulations = simulations;
    config.selection = selection;
    config.max_depth = max_depth;
    config.dirichlet_fraction = 0.25;
    config.gumbel_scale = 1.0;
    Mcts search(config, 1);
    const int roots = 9;
    const Outcome out = run(search, roots, 0, masked);
    for (int b = 0; b < roots; ++b) {
        int visits = 0;
        float weights = 0.0f;
        for (int a = 0; a < actions; ++a) {
            const int i = b * actions + a;
            visits += out.visits[i];
            weights += out.weights[i];
            expect(std::isnan(out.q[i]) == (out.visits[i] == 0), "Q is known where there are visits");
            if (masked && actions > 1 && a == b % actions)
                expect(out.visits[i] == 0 && out.weights[i] == 0.0f && out.best[b] != a,
                       "invalid is not done");
        }
        expect(visits == simulations, "every simulation passes through one action of the root");
        expect(std::abs(weights - 1.0f) < 1e-5f, "weights add up to 1");
        for (int index = 1; index <= simulations; ++index) {
            const int i = b * (simulations + 1) + index;
            if (out.node_visits[i] > 0)
                expect(out.parent[i] >= 0 && out.parent[i] < index, "a parent is older than its child");
        }
    }
}

void test_threads_and_batches(Selection selection) {
    MctsConfig config;
    config.num_actions = 5;
    config.simulations = 30;
    config.selection = selection;
    config.gumbel_scale = 1.0;
    config.dirichlet_fraction = 0.25;
    Mcts one(config, 1), many(config, 3);
    const Outcome alone = run(one, 100, 0, true), shared = run(many, 100, 0, true),
                  part = run(many, 2, 50, true);
    expect(alone.parent == shared.parent && alone.weights == shared.weights && alone.value == shared.value,
           "threads change nothing");
    expect(part.value[1] == alone.value[51] && part.visits[7] == alone.visits[51 * 5 + 2],
           "batches change nothing");
}

void test_bad_input() {
    MctsConfig config;
    config.num_actions = 2;
    config.simulations = 1;
    for (double bad : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
        MctsConfig wrong = config;
        wrong.value_scale = bad;
        expect(raises([&] { Mcts search(wrong, 1); }), "a bad value_scale");
    }
    Mcts search(config, 1);
    const float logits[2] = {0.0f, 1.0f}, value = 0.5f, bad = std::numeric_limits<float>::infinity();
    const std::uint64_t seed = 0;
    const std::uint8_t nothing[2] = {1, 1};
    std::int64_t parent = 7, action = 7;
    expect(raises([&] { search.expand(logits, &value, &value, &value, &parent, &action); }), "nothing begun");
    expect(raises([&] { search.begin(1, logits, &bad, nullptr, &seed, &parent, &action); }),
           "an infinite value");
    expect(raises([&] { search.begin(1, logits, &value, nothing, &seed, &parent, &action); }),
           "nothing allowed");
    expect(parent == 7 && action == 7 && search.num_roots() == 0, "a refused call changes nothing");
    search.begin(1, logits, &value, nullptr, &seed, &parent, &action);
    expect(parent == 0 && action == 1, "the prior's best first");
    search.expand(logits, &value, &value, &value, &parent, &action);
    expect(search.done(), "one simulation");
    expect(raises([&] { search.expand(logits, &value, &value, &value, &parent, &action); }), "done already");
}

}  // namespace

int main() {
    for (const Selection selection : {Selection::kPuct, Selection::kGumbel}) {
        for (const int actions : {1, 2, 3, 4, 7, 18})
            for (const int max_depth : {0, 1, 3})
                for (const bool masked : {false, true})
                    test_counts_add_up(selection, actions, 25, max_depth, masked);
        test_threads_and_batches(selection);
    }
    test_bad_input();
    expect(halving_sequence(4, 8) == std::vector<int>({0, 0, 0, 0, 1, 1, 2, 2}), "sequential halving");
    expect(raises([] { halving_sequence(0, 8); }), "nothing considered");
    if (failures == 0) std::printf("ok\n");
    return failures == 0 ? 0 : 1;
}
