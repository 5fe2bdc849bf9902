// Monte Carlo tree search over a learned model, for a batch of roots.
//
//   PUCT: Schrittwieser et al. 2020, arXiv:1911.08265, appendix B.
//   Gumbel: Danihelka et al. 2022, "Policy improvement by planning with Gumbel" (sequential halving at the
//   root, completed Q values everywhere).
//   Sampled actions: Hubert et al. 2021, arXiv:2104.06303.
//
// The model is the caller's: the search names one leaf per root, the caller evaluates all of them in one
// batch and hands the results back, which also finds the next leaves.
//
// Letters: B roots, S simulations, A actions that the model knows, N actions of a node: all A, or the K drawn
// of them. Arrays are row-major. A root's tree depends on its own inputs and seed alone, never on its batch
// or on threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "native/threads.h"

namespace native {

enum class Selection { kPuct, kGumbel };

// What Q values are scaled to [0, 1] by: the extremes of the node's own value and its visited children's (Q
// completed by the mixed value for Gumbel); the extremes of the whole tree so far, its root's value and the Q
// values of its visited actions; or min_value and max_value.
enum class Normalisation { kSiblings, kTree, kBounds };

struct MctsConfig {
    int num_actions = 1;
    int simulations = 50;
    Selection selection = Selection::kPuct;
    int max_depth = 0;  // actions from the root to a leaf at most, 0 for no limit

    // K actions of a node are drawn with replacement from beta ~ prior^(1 / proposal_temperature); those
    // found, beta^ of them each, have the prior (beta^ / beta) prior. 0 takes all actions.
    int sampled_actions = 0;
    double proposal_temperature = 1.0;

    Normalisation normalisation = Normalisation::kSiblings;
    double min_value = 0.0, max_value = 1.0;  // of kBounds
    double min_range = 1e-8;                  // extremes closer than this are taken to be this far apart

    // PUCT. Unvisited children have the least Q value.
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
    bool rescale = true;      // scale a node's completed Q values first
    bool mixed_value = true;  // complete Q values by the mixed value; by the node's own evaluation otherwise

    int width() const { return sampled_actions > 0 ? sampled_actions : num_actions; }  // N
    void check() const;  // throws std::invalid_argument naming the offending value
};

// Visits of the considered actions before each simulation of a sequential halving over `considered` actions.
std::vector<int> halving_sequence(int considered, int simulations);

// The trees of one batch of roots after another, in memory that is kept. Not thread-safe.
//
// Node 0 is the root and node s is what simulation s (1 to S) expanded. A simulation that max_depth or a
// state without a valid action stopped evaluates an expanded node once more and leaves node s unused.
class Mcts {
  public:
    // Throws std::invalid_argument naming the offending value.
    Mcts(const MctsConfig& config, int threads);

    const MctsConfig& config() const { return config_; }
    std::int64_t num_roots() const { return num_roots_; }
    int simulation() const { return simulation_; }  // simulations done
    bool done() const { return simulation_ == last_; }

    // Starts the trees of B roots and finds their first leaves: the child by action leaf_action[b] of node
    // leaf_parent[b]. logits [B, A] and value [B] are the model's; invalid [B, A] marks what the root may not
    // do, or is null. Without `noise` the roots are not disturbed. Every root needs a valid action and finite
    // numbers (std::invalid_argument otherwise, and nothing changes).
    void begin(std::int64_t num_roots, const float* logits, const float* value, const std::uint8_t* invalid,
               const std::uint64_t* seeds, bool noise, std::int64_t* leaf_parent, std::int64_t* leaf_action);

    // Takes the model's evaluation of the leaves: reward and discount [B] of the step to each (a negative
    // discount where the other player moves next), logits [B, A] and value [B] at it, and what may not be
    // done there, invalid [B, A] or null; finds the next leaves unless the search is done. Searches end at a
    // state without a valid action. Throws std::invalid_argument if it was done before, or for numbers that
    // are not finite, and then nothing changes.
    void expand(const float* logits, const float* value, const float* reward, const float* discount,
                const std::uint8_t* invalid, std::int64_t* leaf_parent, std::int64_t* leaf_action);

    // Trees that are saved, and where what is kept of them goes.
    struct Kept {
        const std::byte* trees;      // [B, tree_size()]
        const std::int64_t* action;  // [B] whose subtree is kept, -1 for none
        std::int32_t* origin;  // [B, S + 1] out: the node of the saved tree that each node was, -1 for none
        std::int32_t* limit;   // [B] out: simulations that a root makes; it ignores the later ones
    };
    std::size_t tree_size() const { return (config_.simulations + 1) * node_size_; }
    // The trees as they are [B, tree_size()].
    void save(std::byte* trees) const;
    // `begin`, with the subtrees of the actions that were taken in place of new trees. The roots have the
    // model's new evaluation and the visits that they had; these count among the S simulations. Only for PUCT
    // over all actions (std::invalid_argument otherwise).
    void begin_kept(std::int64_t num_roots, const float* logits, const float* value,
                    const std::uint8_t* invalid, const std::uint64_t* seeds, bool noise, const Kept& kept,
                    std::int64_t* leaf_parent, std::int64_t* leaf_action);

    // The actions of the roots [B, N], -1 where there is none: invalid, or fewer found than drawn.
    void actions(std::int64_t* action) const;
    // Of the roots so far: visits of each action [B, N]; r + discount * value of those visited [B, N], NaN
    // elsewhere; and the mean value [B].
    void root(std::int32_t* visits, float* q, float* value) const;
    // What the search recommends: weights [B, N] (shares of the visits, or the improved policy of Gumbel) and
    // the place of the best action [B] (the most visited, the first of equals; or the survivor of the
    // halving).
    void policy(float* weights, std::int64_t* best) const;
    // All nodes [B, S + 1]: parent and action that led to each (-1 if none), visits and value. Unused: 0.
    void nodes(std::int32_t* parent, std::int32_t* action, std::int32_t* visits, float* value) const;
    // The rest of what is known of them [B, S + 1]: prior of the action that led to each (0 for the root),
    // its reward and discount, and the node's own evaluation. Unused: 0.
    void details(float* prior, float* reward, float* discount, float* raw_value) const;

  private:
    // A node is a header and then `lanes_` floats each of prior, q, visits and child; logits for Gumbel; and
    // ids of sampled actions.
    struct alignas(16) Header {
        float value;             // mean of its own evaluation and of what was backed up
        float raw_value;         // its own evaluation
        float reward, discount;  // of the step to it
        std::int32_t visits, parent, lane;
        std::int32_t num_valid;  // actions
    };
    struct Node {
        Header& header;
        float *prior, *q, *visits;  // of the children; q counts where visits are not 0. Prior -inf: no action
        std::int32_t* child;        // index of the node, -1 for none
        float* logits;              // -inf: no action
        std::int32_t* ids;          // null where lanes are ids
        int id(int lane) const { return ids ? ids[lane] : lane; }
    };
    struct Path {
        int depth;           // actions from the root to the leaf
        int lane;            // of the last of them
        std::int32_t* node;  // [S + 1] from the root to the leaf's parent
    };
    struct Range {
        float low, high;
    };
    struct Evaluation {
        const float* logits;          // [A]
        const std::uint8_t* invalid;  // [A] or null
        float value;
    };

    Node node(std::int64_t root, int index) const {
        return node_at(&memory_[(root * (config_.simulations + 1) + index) * node_size_]);
    }
    Node node_at(std::byte* start) const;
    void start(std::int64_t num_roots, const float* logits, const float* value, const std::uint8_t* invalid,
               const std::uint64_t* seeds, bool noise, const Kept* kept, std::int64_t* leaf_parent,
               std::int64_t* leaf_action);
    void keep(std::int64_t root, const Kept& kept);
    int next_index(std::int64_t root) const { return first_[root] + simulation_ - 1; }
    void check_finite(const char* name, const float* values, std::int64_t rows, int columns) const;
    void for_roots(std::int64_t count, const auto& body) const;
    void reserve(std::int64_t num_roots);
    void prefetch(std::int64_t root) const;

    void evaluate(Node node, const Evaluation& found, std::uint64_t seed, int index) const;
    void take_all(Node node, const Evaluation& found) const;
    void sample(Node node, const Evaluation& found, std::uint64_t seed, int index) const;
    void shift_logits(Node root) const;
    void add_dirichlet(Node root, std::uint64_t seed) const;
    void draw_gumbel(std::int64_t root, std::uint64_t seed);

    void grow(std::int64_t root, const Evaluation& found, float reward, float discount);
    void back_up(std::int64_t root, int leaf);
    void descend(std::int64_t root, std::int64_t* parent, std::int64_t* action);
    int select(std::int64_t root, int index) const;
    int select_puct(std::int64_t root, const Node& node) const;
    int select_considered(std::int64_t root, float visits) const;
    int select_improved(std::int64_t root, const Node& node) const;
    Range scale(std::int64_t root) const;
    void completed(std::int64_t root, const Node& node, float* q_logits) const;
    void improved_policy(std::int64_t root, const Node& node, float* policy) const;
    void for_nodes(const auto& body) const;

    MctsConfig config_;
    int lanes_;                              // N rounded up to whole vectors
    std::size_t node_size_;                  // in bytes
    std::vector<float> exploration_;         // [S + 2] factor of the prior, by the visits of the node
    std::vector<std::vector<int>> halving_;  // sequences, by the number of considered actions
    std::unique_ptr<ThreadPool> pool_;

    std::int64_t num_roots_ = 0, capacity_ = 0;
    int simulation_ = 0, last_ = 0;         // simulations done, and to do
    std::unique_ptr<std::byte[]> memory_;   // [B, S + 1] nodes
    std::unique_ptr<std::int32_t[]> path_;  // [B, S + 1]
    std::vector<Path> paths_;               // [B]
    std::vector<Range> ranges_;             // [B] extremes of the trees
    std::vector<std::uint64_t> seeds_;      // [B]
    std::vector<float> gumbel_;             // [B, lanes_]
    std::vector<int> first_;                // [B] nodes that were there before the first simulation
    std::vector<int> limits_;               // [B] simulations to do
    std::vector<int> num_considered_;       // [B]
};

}  // namespace native
