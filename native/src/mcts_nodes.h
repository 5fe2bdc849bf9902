// All nodes of a batch of trees.
#pragma once

#include <vector>

#include "native/mcts.h"

namespace native {

// Calls body(place [B, S + 1], node, its parent or itself for a root) for every node of the trees.
void Mcts::for_nodes(const auto& body) const {
    std::vector<int> open;
    for (std::int64_t root = 0; root < num_roots_; ++root) {
        open.assign(1, 0);
        while (!open.empty()) {
            const int index = open.back();
            open.pop_back();
            const Node here = node(root, index);
            body(root * (config_.simulations + 1) + index, here,
                 index == 0 ? here : node(root, here.header.parent));
            for (int i = 0; i < config_.width(); ++i)
                if (here.child[i] >= 0) open.push_back(here.child[i]);
        }
    }
}

}  // namespace native
