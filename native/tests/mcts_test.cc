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
    std::vector<std::uint8_t> invalid;  // a fifth of the actions, and everything now and then

    Model(int roots, int actions)
        : num_actions(actions),
          logits(roots * actions),
          value(roots),
          reward(roots),
          discount(roots),
          invalid(roots * actions) {}
    static float noise(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
        return static_cast<float>(std::sin(12.9898 * a + 78.233 * b + 37.719 * c + 11.135 * d));
    }
    void evaluate(const std::vector<std::int64_t>& parent, const std::vector<std::int64_t>& action,
                  std::int64_t first) {
        for (std::size_t b = 0; b < parent.size(); ++b) {
            const std::int64_t root = first + static_cast<std::int64_t>(b);
            const bool ends = noise(root, parent[b], action[b], -3) > 0.9f;
            for (int a = 0; a < num_actions; ++a) {
                logits[b * num_actions + a] = 2.0f * noise(root, parent[b], action[b], a);
                invalid[b * num_actions + a] = ends || noise(root, parent[b], action[b], -4 - a) > 0.8f;
            }
            value[b] = noise(root, parent[b], action[b], -1);
            reward[b] = 0.1f * noise(root, parent[b], action[b], -2);
            discount[b] = root % 2 ? 0.9f : -0.9f;
        }
    }
};

struct Outcome {
    std::vector<std::int32_t> visits, parent, action, node_visits;
    std::vector<float> q, value, weights, node_value, prior, reward, discount, raw_value;
    std::vector<std::int64_t> best, ids;
};

Outcome run(Mcts& search, int roots, std::int64_t first, bool masked) {
    const int A = search.config().num_actions, S = search.config().simulations;
    const int N = search.config().width();
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
                 seeds.data(), true, parent.data(), action.data());
    while (!search.done()) {
        model.evaluate(parent, action, first);
        search.expand(model.logits.data(), model.value.data(), model.reward.data(), model.discount.data(),
                      masked ? model.invalid.data() : nullptr, parent.data(), action.data());
    }
    Outcome out;
    out.visits.resize(roots * N), out.q.resize(roots * N), out.weights.resize(roots * N);
    out.ids.resize(roots * N);
    out.value.resize(roots), out.best.resize(roots);
    out.parent.resize(roots * (S + 1)), out.action.resize(roots * (S + 1));
    out.node_visits.resize(roots * (S + 1)), out.node_value.resize(roots * (S + 1));
    search.root(out.visits.data(), out.q.data(), out.value.data());
    search.policy(out.weights.data(), out.best.data());
    for (auto* part : {&out.prior, &out.reward, &out.discount, &out.raw_value}) part->resize(roots * (S + 1));
    search.actions(out.ids.data());
    search.details(out.prior.data(), out.reward.data(), out.discount.data(), out.raw_value.data());
    search.nodes(out.parent.data(), out.action.data(), out.node_visits.data(), out.node_value.data());
    return out;
}

struct Kind {
    Selection selection;
    Normalisation normalisation;
    bool sampled;
};

MctsConfig make_config(const Kind& kind, int actions, int simulations) {
    MctsConfig config;
    config.num_actions = actions;
    config.simulations = simulations;
    config.selection = kind.selection;
    config.normalisation = kind.normalisation;
    config.sampled_actions = kind.sampled ? (actions + 1) / 2 : 0;
    config.proposal_temperature = 1.5;
    config.dirichlet_fraction = 0.25;
    config.gumbel_scale = 1.0;
    return config;
}

void test_counts_add_up(const Kind& kind, int actions, int simulations, int max_depth, bool masked) {
    MctsConfig config = make_config(kind, actions, simulations);
    config.max_depth = max_depth;
    Mcts search(config, 1);
    const int roots = 9, N = config.width();
    const Outcome out = run(search, roots, 0, masked);
    for (int b = 0; b < roots; ++b) {
        int visits = 0;
        float weights = 0.0f;
        for (int lane = 0; lane < N; ++lane) {
            const int i = b * N + lane;
            visits += out.visits[i];
            weights += out.weights[i];
            expect(std::isnan(out.q[i]) == (out.visits[i] == 0), "Q is known where there are visits");
            const bool nothing = out.ids[i] < 0 || (masked && actions > 1 && out.ids[i] == b % actions);
            expect(!masked || actions == 1 || out.ids[i] != b % actions, "invalid is no action");
            if (nothing)
                expect(out.visits[i] == 0 && out.weights[i] == 0.0f && out.best[b] != lane,
                       "invalid is not done");
        }
        expect(visits == simulations, "every simulation passes through one action of the root");
        expect(std::abs(weights - 1.0f) < 1e-5f, "weights add up to 1");
        for (int index = 1; index <= simulations; ++index) {
            const int i = b * (simulations + 1) + index;
            if (out.node_visits[i] > 0)
                expect(out.parent[i] >= 0 && out.parent[i] < index && out.prior[i] >= 0.0f,
                       "a parent is older than its child");
            expect(std::isfinite(out.node_value[i]), "values are finite");
        }
    }
}

void test_threads_and_batches(const Kind& kind) {
    const MctsConfig config = make_config(kind, 5, 30);
    Mcts one(config, 1), many(config, 3);
    const Outcome alone = run(one, 100, 0, true), shared = run(many, 100, 0, true),
                  part = run(many, 2, 50, true);
    expect(alone.parent == shared.parent && alone.weights == shared.weights && alone.value == shared.value &&
               alone.ids == shared.ids && alone.raw_value == shared.raw_value,
           "threads change nothing");
    const int N = config.width();
    expect(part.value[1] == alone.value[51] && part.visits[N + 2] == alone.visits[51 * N + 2],
           "batches change nothing");
}

void test_kept_subtrees() {
    MctsConfig config;
    config.num_actions = 3;
    config.simulations = 20;
    const int roots = 50, S = config.simulations;
    Mcts one(config, 1), many(config, 3);
    std::vector<Outcome> found;
    for (Mcts* search : {&one, &many}) {
        const Outcome out = run(*search, roots, 0, false);
        std::vector<std::byte> trees(roots * search->tree_size());
        search->save(trees.data());
        std::vector<std::int64_t> taken = out.best, parent(roots, -1), action(roots, -1);
        for (int b = 0; b < roots; b += 7) taken[b] = -1;
        std::vector<std::int32_t> origin(roots * (S + 1)), limit(roots);
        std::vector<std::uint64_t> seeds(roots, 0);
        Model model(roots, 3);
        for (int damage = 0; damage < 2; ++damage) {
            model.evaluate(parent, action, 0);
            search->begin_kept(roots, model.logits.data(), model.value.data(), nullptr, seeds.data(), true,
                               {trees.data(), taken.data(), origin.data(), limit.data()}, parent.data(),
                               action.data());
            while (!search->done()) {
                model.evaluate(parent, action, 0);
                search->expand(model.logits.data(), model.value.data(), model.reward.data(),
                               model.discount.data(), nullptr, parent.data(), action.data());
            }
            Outcome after;
            after.visits.resize(roots * 3), after.q.resize(roots * 3), after.value.resize(roots);
            search->root(after.visits.data(), after.q.data(), after.value.data());
            for (int b = 0; b < roots && damage == 0; ++b) {
                expect(after.visits[3 * b] + after.visits[3 * b + 1] + after.visits[3 * b + 2] == S,
                       "kept visits count among the simulations");
                expect((limit[b] == S) == (b % 7 == 0 || origin[b * (S + 1) + 1] < 0),
                       "as many simulations fewer as were kept");
            }
            if (damage == 0) found.push_back(after);
            for (std::size_t i = 0; i < trees.size(); i += 3) trees[i] = static_cast<std::byte>(i * 37);
        }
    }
    expect(found[0].visits == found[1].visits && found[0].value == found[1].value, "threads change nothing");
    config.selection = Selection::kGumbel;
    Mcts gumbel(config, 1);
    expect(
        raises([&] { gumbel.begin_kept(0, nullptr, nullptr, nullptr, nullptr, true, {}, nullptr, nullptr); }),
        "only puct keeps subtrees");
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
    for (const auto& break_it : std::vector<void (*)(MctsConfig&)>{
             [](MctsConfig& c) { c.sampled_actions = 3; }, [](MctsConfig& c) { c.min_value = c.max_value; },
             [](MctsConfig& c) { c.min_range = 0.0; }, [](MctsConfig& c) { c.proposal_temperature = 0.0; }}) {
        MctsConfig wrong = config;
        break_it(wrong);
        expect(raises([&] { Mcts search(wrong, 1); }), "a bad configuration");
    }
    Mcts search(config, 1);
    const float logits[2] = {0.0f, 1.0f}, value = 0.5f, bad = std::numeric_limits<float>::infinity();
    const std::uint64_t seed = 0;
    const std::uint8_t nothing[2] = {1, 1};
    std::int64_t parent = 7, action = 7;
    expect(raises([&] { search.expand(logits, &value, &value, &value, nullptr, &parent, &action); }),
           "nothing begun");
    expect(raises([&] { search.begin(1, logits, &bad, nullptr, &seed, true, &parent, &action); }),
           "an infinite value");
    expect(raises([&] { search.begin(1, logits, &value, nothing, &seed, true, &parent, &action); }),
           "nothing allowed");
    expect(parent == 7 && action == 7 && search.num_roots() == 0, "a refused call changes nothing");
    search.begin(1, logits, &value, nullptr, &seed, true, &parent, &action);
    expect(parent == 0 && action == 1, "the prior's best first");
    search.expand(logits, &value, &value, &value, nullptr, &parent, &action);
    expect(search.done(), "one simulation");
    expect(raises([&] { search.expand(logits, &value, &value, &value, nullptr, &parent, &action); }),
           "done already");
}

}  // namespace

int main() {
    for (const Selection selection : {Selection::kPuct, Selection::kGumbel})
        for (const Normalisation scale :
             {Normalisation::kSiblings, Normalisation::kTree, Normalisation::kBounds})
            for (const bool sampled : {false, true}) {
                const Kind kind = {selection, scale, sampled};
                for (const int actions : {1, 2, 3, 4, 7, 18})
                    for (const int max_depth : {0, 1, 3})
                        for (const bool masked : {false, true})
                            test_counts_add_up(kind, actions, 25, max_depth, masked);
                test_threads_and_batches(kind);
            }
    test_kept_subtrees();
    test_bad_input();
    expect(halving_sequence(4, 8) == std::vector<int>({0, 0, 0, 0, 1, 1, 2, 2}), "sequential halving");
    expect(raises([] { halving_sequence(0, 8); }), "nothing considered");
    if (failures == 0) std::printf("ok\n");
    return failures == 0 ? 0 : 1;
}
