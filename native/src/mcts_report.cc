// What a search found.
#include <algorithm>

#include "mcts_lanes.h"
#include "mcts_nodes.h"
#include "native/mcts.h"

namespace native {

void Mcts::actions(std::int64_t* action) const {
    for (std::int64_t root = 0; root < num_roots_; ++root) {
        const Node top = node(root, 0);
        for (int i = 0; i < config_.width(); ++i) *action++ = top.prior[i] == -kInfinity ? -1 : top.id(i);
    }
}

void Mcts::root(std::int32_t* visits, float* q, float* value) const {
    for (std::int64_t root = 0; root < num_roots_; ++root) {
        const Node top = node(root, 0);
        for (int i = 0; i < config_.width(); ++i) {
            const bool visited = top.visits[i] > 0.0f;
            *visits++ = static_cast<std::int32_t>(top.visits[i]);
            *q++ = visited ? top.q[i] : std::numeric_limits<float>::quiet_NaN();
        }
        *value++ = top.header.value;
    }
}

void Mcts::policy(float* weights, std::int64_t* best) const {
    const int N = config_.width();
    std::vector<float> improved(lanes_);
    for (std::int64_t root = 0; root < num_roots_; ++root, weights += N) {
        const Node top = node(root, 0);
        const float most_visits = *std::max_element(top.visits, top.visits + N);
        if (config_.selection == Selection::kGumbel) {
            *best++ = select_considered(root, most_visits);
            improved_policy(root, top, improved.data());
            std::copy_n(improved.data(), N, weights);
            continue;
        }
        const float* shares = most_visits > 0.0f ? top.visits : top.prior;  // the prior's sum is 1
        const float total = most_visits > 0.0f ? static_cast<float>(top.header.visits - 1) : 1.0f;
        *best++ = std::max_element(shares, shares + N) - shares;
        for (int i = 0; i < N; ++i) weights[i] = std::max(shares[i], 0.0f) / total;
    }
}

void Mcts::nodes(std::int32_t* parent, std::int32_t* action, std::int32_t* visits, float* value) const {
    const std::int64_t count = num_roots_ * (config_.simulations + 1);
    std::fill_n(parent, count, -1);
    std::fill_n(action, count, -1);
    std::fill_n(visits, count, 0);
    std::fill_n(value, count, 0.0f);
    for_nodes([&](std::int64_t place, const Node& here, const Node& above) {
        parent[place] = here.header.parent;
        if (here.header.parent >= 0) action[place] = above.id(here.header.lane);
        visits[place] = here.header.visits;
        value[place] = here.header.value;
    });
}

void Mcts::details(float* prior, float* reward, float* discount, float* raw_value) const {
    const std::int64_t count = num_roots_ * (config_.simulations + 1);
    for (float* part : {prior, reward, discount, raw_value}) std::fill_n(part, count, 0.0f);
    for_nodes([&](std::int64_t place, const Node& here, const Node& above) {
        if (here.header.parent >= 0) prior[place] = above.prior[here.header.lane];
        reward[place] = here.header.reward;
        discount[place] = here.header.discount;
        raw_value[place] = here.header.raw_value;
    });
}

}  // namespace native
