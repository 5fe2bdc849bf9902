// Which action a simulation takes at a node.
#include <algorithm>
#include <cmath>
#include <memory>

#include "mcts_lanes.h"
#include "native/mcts.h"

namespace native {
namespace {

constexpr float kLowest = -1e9f;  // of a considered action's score, so that it beats those not considered

// A number per lane for as long as one node is looked at; few lanes live on the stack.
class Scratch {
  public:
    explicit Scratch(int lanes) : large_(lanes > kSmall ? new float[lanes] : nullptr) {}
    operator float*() { return large_ ? large_.get() : small_; }

  private:
    static constexpr int kSmall = 64;
    alignas(16) float small_[kSmall];
    std::unique_ptr<float[]> large_;
};

}  // namespace

int Mcts::select(std::int64_t root, int index) const {
    const Node here = node(root, index);
    if (config_.selection == Selection::kPuct) return select_puct(root, here);
    if (index > 0) return select_improved(root, here);
    return select_considered(root, static_cast<float>(halving_[num_considered_[root]][simulation_]));
}

// What is known before a node is looked at: the extremes of the tree, or the bounds.
Mcts::Range Mcts::scale(std::int64_t root) const {
    if (config_.normalisation == Normalisation::kBounds)
        return {static_cast<float>(config_.min_value), static_cast<float>(config_.max_value)};
    return ranges_[root];
}

// Schrittwieser et al. 2020, eq. 2, with scaled Q values.
int Mcts::select_puct(std::int64_t root, const Node& node) const {
    Floats floor, ceiling;
    if (config_.normalisation == Normalisation::kSiblings) {
        const Floats own = all(node.header.value);
        floor = ceiling = own;
        for (int i = 0; i < lanes_; i += kLanes) {
            const Floats q = load(node.visits + i) > 0.0f ? load(node.q + i) : own;
            floor = least(floor, q);
            ceiling = most(ceiling, q);
        }
        floor = least(floor), ceiling = most(ceiling);
    } else {
        const Range known = scale(root);
        floor = all(known.low), ceiling = all(known.high);
    }
    const Floats range = most(ceiling - floor, all(static_cast<float>(config_.min_range)));
    const Floats explore = all(exploration_[node.header.visits]);
    ArgMax best;
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats visits = load(node.visits + i);
        const Floats q = visits > 0.0f ? load(node.q + i) : floor;
        best.add(i, explore * load(node.prior + i) / (visits + 1.0f) + (q - floor) / range);
    }
    return best.index();
}

// Of the root's actions with so many visits, the one with the best of Gumbel noise, logits and Q together.
int Mcts::select_considered(std::int64_t root, float visits) const {
    const Node top = node(root, 0);
    const float* noise = &gumbel_[root * lanes_];
    Scratch q(lanes_);
    completed(root, top, q);
    ArgMax best;
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats score = load(noise + i) + load(top.logits + i) + load(q + i);
        const Floats considered = load(top.visits + i) == visits ? all(0.0f) : all(-kInfinity);
        const Floats valid = load(top.logits + i) > -kInfinity ? all(0.0f) : all(-kInfinity);
        best.add(i, most(score, all(kLowest)) + considered + valid);
    }
    return best.index();
}

// The action whose share of the visits is farthest below the improved policy (Danihelka et al. 2022, eq. 14).
int Mcts::select_improved(std::int64_t root, const Node& node) const {
    Scratch policy(lanes_);
    improved_policy(root, node, policy);
    const Floats total = all(static_cast<float>(node.header.visits));  // of the children, and 1
    ArgMax best;
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats valid = load(node.logits + i) > -kInfinity ? all(0.0f) : all(-kInfinity);
        best.add(i, load(policy + i) - load(node.visits + i) / total + valid);
    }
    return best.index();
}

// Q values in logits, those of unvisited actions completed by the mixed value (Danihelka et al. 2022, eq. 8,
// 33). They are finite at every lane, whatever is valid.
void Mcts::completed(std::int64_t root, const Node& node, float* q_logits) const {
    const Floats none = all(0.0f), tiny = all(std::numeric_limits<float>::min());
    Floats total = none, products = none, highest = none;
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats count = load(node.visits + i), prior = most(load(node.prior + i), tiny);
        total += count > 0.0f ? prior : none;
        products += count > 0.0f ? prior * load(node.q + i) : none;
        highest = most(highest, count);
    }
    const Floats most_visits = most(highest), raw = all(node.header.raw_value);
    const Floats weighted = most_visits > 0.0f ? sum(products) / sum(total) : none;
    const Floats visits = all(static_cast<float>(node.header.visits - 1));
    const Floats mixed = config_.mixed_value ? (raw + visits * weighted) / (visits + 1.0f) : raw;
    Floats low = all(kInfinity), high = all(-kInfinity);
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats q = load(node.visits + i) > 0.0f ? load(node.q + i) : mixed;
        store(q_logits + i, q);
        const auto valid = load(node.logits + i) > -kInfinity;
        low = least(low, valid ? q : all(kInfinity));
        high = most(high, valid ? q : all(-kInfinity));
    }
    Floats factor = (all(static_cast<float>(config_.maxvisit_init)) + most_visits) *
                    static_cast<float>(config_.value_scale);
    Floats shift = none;
    if (config_.rescale) {
        low = least(low), high = most(high);
        if (config_.normalisation != Normalisation::kSiblings) {
            const Range known = scale(root);
            low = all(known.low), high = all(known.high);
        }
        shift = low;
        factor /= most(high - low, all(static_cast<float>(config_.min_range)));
    }
    for (int i = 0; i < lanes_; i += kLanes) store(q_logits + i, factor * (load(q_logits + i) - shift));
}

// softmax(logits + completed Q).
void Mcts::improved_policy(std::int64_t root, const Node& node, float* policy) const {
    completed(root, node, policy);
    for (int i = 0; i < lanes_; i += kLanes) store(policy + i, load(policy + i) + load(node.logits + i));
    softmax(policy, lanes_, 0.0f);
}

}  // namespace native
