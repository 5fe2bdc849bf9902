// Monte Carlo tree search over a learned model, for a batch of roots.
//
//   PUCT: Schrittwieser et al. 2020, arXiv:1911.08265, appendix B.
//   Gumbel: Danihelka et al. 2022, "Policy improvement by planning with Gumbel" (sequential halving at the
//   root, completed Q values everywhere).
//
// The model is the caller's: the search names one leaf per root, the caller evaluates all of them in one
// batch and hands the results back, which also finds the next leaves.
//
// Letters: B roots, S simulations, A actions of a node (ids, or sampled actions: Hubert et al. 2021). Arrays
// are row-major. A root's tree depends on its own inputs and seed alone, never on its batch or on threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "native/threads.h"

namespace native {

enum class Selection { kPuct, kGumbel };

struct MctsConfig {
    int num_actions = 1;
    int simulations = 50;
    Selection selection = Selection::kPuct;
    int max_depth = 0;  // actions from the root to a leaf at most, 0 for no limit

    // PUCT. The Q values of a node are scaled to [0, 1] by the extremes of its own value and its visited
    // children's; unvisited children have the least of them.
    double c1 = 1.25;
    double c2 = 19652.0;
    double dirichlet_alpha = 0.3;
    double dirichlet_fraction = 0.0;  // share of Dirichlet noise in the root's prior

    // Gumbel.
    double gumbel_scale = 0.0;  // of the Gumbel noise on the root's logits
    int max_considered = 16;    // actions that the sequential halving starts with, of the valid ones
    double value_scale =
        0.1;  // a Q value counts (maxvisit_init + most visits of a child) * value_scale logits
    double maxvisit_init = 50.0;
    bool rescale = true;  // scale a node's completed Q values to [0, 1] first
};

// Visits of the considered actions before each simulation of a sequential halving over `considered` actions.
std::vector<int> halving_sequence(int considered, int simulations);

// The trees of one batch of roots after another, in memory that is kept. Not thread-safe.
//
// Node 0 is the root and node s is what simulation s (1 to S) expanded. A simulation that max_depth stopped
// evaluates an expanded node once more and leaves node s unused.
class Mcts {
  public:
    // Throws std::invalid_argument naming the offending value.
    Mcts(const MctsConfig& config, int threads);

    const MctsConfig& config() const { return config_; }
    std::int64_t num_roots() const { return num_roots_; }
    int simulation() const { return simulation_; }  // simulations done
    bool done() const { return simulation_ == config_.simulations; }

    // Starts the trees of B roots and finds their first leaves: the child by leaf_action[b] of node
    // leaf_parent[b]. logits [B, A] and value [B] are the model's; invalid [B, A] marks what the root may not
    // do, or is null. Every root needs a valid action and finite numbers (std::invalid_argument otherwise,
    // and nothing changes).
    void begin(std::int64_t num_roots, const float* logits, const float* value, const std::uint8_t* invalid,
               const std::uint64_t* seeds, std::int64_t* leaf_parent, std::int64_t* leaf_action);

    // Takes the model's evaluation of the leaves: reward and discount [B] of the step to each, logits [B, A]
    // and value [B] at it; finds the next leaves unless the search is done. Throws std::invalid_argument if
    // it was done before, or for numbers that are not finite, and then nothing changes.
    void expand(const float* logits, const float* value, const float* reward, const float* discount,
                std::int64_t* leaf_parent, std::int64_t* leaf_action);

    // Of the roots so far: visits of each action [B, A]; r + discount * value of those visited [B, A], NaN
    // elsewhere; and the mean value [B].
    void root(std::int32_t* visits, float* q, float* value) const;
    // What the search recommends: weights [B, A] (shares of the visits, or the improved policy of Gumbel) and
    // the best action [B] (the most visited, the first of equals; or the survivor of the halving).
    void policy(float* weights, std::int64_t* action) const;
    // All nodes [B, S + 1]: parent and action that led to each (-1 if none), visits and value. Unused: 0.
    void nodes(std::int32_t* parent, std::int32_t* action, std::int32_t* visits, float* value) const;

  private:
    // A node is a header and then `lanes_` floats each of prior, q, visits and child, and logits for Gumbel.
    struct alignas(16) Header {
        float value;             // mean of its own evaluation and of what was backed up
        float raw_value;         // its own evaluation
        float reward, discount;  // of the step to it
        std::int32_t visits, parent, action;
    };
    struct Node {
        Header& header;
        float *prior, *q, *visits;  // of the children; q counts where visits are not 0
        std::int32_t* child;        // index of the node, -1 for none
        float* logits;
    };
    struct Path {
        int depth;           // actions from the root to the leaf
        int action;          // the last of them
        std::int32_t* node;  // [S + 1] from the root to the leaf's parent
    };

    Node node(std::int64_t root, int index) const;
    const float* mask(std::int64_t root) const {
        return masks_.empty() ? mask_.data() : &masks_[root * lanes_];
    }
    void check_finite(const char* name, const float* values, std::int64_t count) const;
    void for_roots(std::int64_t count, const auto& body) const;
    void evaluate(Node node, const float* logits, float value, const float* mask) const;
    void shift_logits(Node root, const float* mask) const;
    void add_dirichlet(Node root, const float* mask, std::uint64_t seed) const;
    void draw_gumbel(std::int64_t root, std::uint64_t seed);
    void grow(std::int64_t root, const float* logits, float value, float reward, float discount);
    void back_up(std::int64_t root, int leaf) const;
    void descend(std::int64_t root, std::int64_t* parent, std::int64_t* action);
    int select(std::int64_t root, int index) const;
    int select_puct(const Node& node, const float* mask) const;
    int select_considered(std::int64_t root, float visits) const;
    int select_improved(const Node& node) const;
    float* completed(const Node& node) const;
    float* improved_policy(const Node& node, const float* mask) const;

    MctsConfig config_;
    int lanes_;                              // A rounded up to whole vectors
    std::size_t node_size_;                  // in bytes
    std::vector<float> exploration_;         // [S + 2] factor of the prior, by the visits of the node
    std::vector<std::vector<int>> halving_;  // sequences, by the number of considered actions
    std::vector<float> mask_;                // [lanes_] 0, or -inf for lanes that are no action
    std::unique_ptr<ThreadPool> pool_;

    std::int64_t num_roots_ = 0, capacity_ = 0;
    int simulation_ = 0;
    std::unique_ptr<std::byte[]> memory_;   // [B, S + 1] nodes
    std::unique_ptr<std::int32_t[]> path_;  // [B, S + 1]
    std::vector<Path> paths_;               // [B]
    std::vector<float> gumbel_;             // [B, lanes_]
    std::vector<float> masks_;         // [B, lanes_] as mask_, of what the roots may do; empty for everything
    std::vector<int> num_considered_;  // [B]
};

}  // namespace native
