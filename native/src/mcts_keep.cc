// The subtree of the action that was taken, as the start of the next search.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "mcts_nodes.h"
#include "native/mcts.h"

namespace native {

void Mcts::save(std::byte* trees) const {
    std::fill_n(trees, num_roots_ * tree_size(), std::byte{0});
    for_nodes([&](std::int64_t place, const Node& here, const Node&) {
        std::memcpy(trees + place * node_size_, &here.header, node_size_);
    });
}

void Mcts::begin_kept(std::int64_t num_roots, const float* logits, const float* value,
                      const std::uint8_t* invalid, const std::uint64_t* seeds, bool noise, const Kept& kept,
                      std::int64_t* leaf_parent, std::int64_t* leaf_action) {
    if (config_.selection != Selection::kPuct || config_.sampled_actions > 0)
        throw std::invalid_argument("subtrees can be kept by puct over all actions only");
    for (std::int64_t root = 0; root < num_roots; ++root)
        if (kept.action[root] >= config_.num_actions)
            throw std::invalid_argument("action must be less than " + std::to_string(config_.num_actions) +
                                        ", not " + std::to_string(kept.action[root]) + " at row " +
                                        std::to_string(root));
    std::fill_n(kept.origin, num_roots * (config_.simulations + 1), -1);
    start(num_roots, logits, value, invalid, seeds, noise, &kept, leaf_parent, leaf_action);
    std::copy(limits_.begin(), limits_.end(), kept.limit);
}

// Copies what lies below an action of a saved tree under a root that has been evaluated. Nodes keep their
// order. Nothing is kept below an action that the root may not do now, nor of a node whose links do not fit.
void Mcts::keep(std::int64_t root, const Kept& kept) {
    const int S = config_.simulations, lane = static_cast<int>(kept.action[root]);
    if (lane < 0) return;
    const Node top = node(root, 0);
    const std::byte* saved = kept.trees + root * tree_size();
    std::int32_t child;
    std::memcpy(&child, saved + sizeof(Header) + (3 * lanes_ + lane) * sizeof child, sizeof child);
    if (child < 1 || child > S) return;
    std::int32_t* origin = kept.origin + root * (S + 1);
    thread_local std::vector<int> places;  // where each old node is now, -1 if not kept
    places.assign(S + 1, -1);
    places[child] = 0;
    origin[0] = child;
    int count = 1;
    float visits = 0.0f, sum = top.header.raw_value;
    for (int index = child + 1; index <= S; ++index) {
        const std::byte* from = saved + index * node_size_;
        Header header;
        std::memcpy(&header, from, sizeof header);
        const bool linked = header.visits > 0 && header.parent >= child && header.parent < index &&
                            header.lane >= 0 && header.lane < config_.num_actions &&
                            places[header.parent] >= 0;
        if (!linked) continue;
        const int parent = places[header.parent];
        const float room = parent > 0 ? static_cast<float>(node(root, parent).header.visits)
                           : top.prior[header.lane] >= 0.0f ? static_cast<float>(S) - visits
                                                            : 0.0f;
        if (static_cast<float>(header.visits) >= room) continue;  // a child has fewer visits than its parent
        places[index] = count;
        origin[count] = index;
        const Node here = node(root, count);
        std::memcpy(&here.header, from, node_size_);
        std::fill_n(here.child, lanes_, -1);
        here.header.parent = parent;
        const Node above = node(root, parent);
        above.child[header.lane] = count++;
        if (parent > 0) continue;
        above.q[header.lane] = header.reward + header.discount * header.value;
        above.visits[header.lane] = static_cast<float>(header.visits);
        visits += above.visits[header.lane];
        sum += above.visits[header.lane] * above.q[header.lane];
    }
    top.header.visits = 1 + static_cast<std::int32_t>(visits);
    top.header.value = sum / (1.0f + visits);
    first_[root] = count;
    limits_[root] = std::max(S - static_cast<int>(visits), 1);
    ranges_[root] = {top.header.value, top.header.value};
    for (int index = 1; index < count; ++index) {
        const Header& header = node(root, index).header;
        const float q = header.reward + header.discount * header.value;
        ranges_[root] = {std::min(ranges_[root].low, q), std::max(ranges_[root].high, q)};
    }
}

}  // namespace native
