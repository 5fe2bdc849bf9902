#include "native/mcts.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "mcts_lanes.h"

namespace native {
namespace {

constexpr std::int64_t kRootsPerTask = 16;
constexpr std::size_t kCached = 1 << 18;  // bytes of trees that the processor's caches hold anyway

}  // namespace

Mcts::Mcts(const MctsConfig& config, int threads) : config_(config) {
    config_.check();
    if (threads != 1) pool_ = std::make_unique<ThreadPool>(threads);
    const int N = config_.width(), S = config_.simulations;
    lanes_ = (N + kLanes - 1) / kLanes * kLanes;
    const bool gumbel = config_.selection == Selection::kGumbel, sampled = config_.sampled_actions > 0;
    node_size_ = sizeof(Header) + (4 + gumbel + sampled) * lanes_ * sizeof(float);
    for (int visits = 0; visits <= S + 1; ++visits)
        exploration_.push_back(
            static_cast<float>(std::sqrt(static_cast<double>(visits)) *
                               (config_.c1 + std::log((visits + config_.c2 + 1.0) / config_.c2))));
    if (gumbel) {
        halving_.resize(1);
        for (int considered = 1; considered <= std::min(N, config_.max_considered); ++considered)
            halving_.push_back(halving_sequence(considered, S));
    }
}

Mcts::Node Mcts::node_at(std::byte* start) const {
    float* lanes = reinterpret_cast<float*>(start + sizeof(Header));
    float* last = lanes + (config_.selection == Selection::kGumbel ? 5 : 4) * lanes_;
    return {*reinterpret_cast<Header*>(start),
            lanes,
            lanes + lanes_,
            lanes + 2 * lanes_,
            reinterpret_cast<std::int32_t*>(lanes + 3 * lanes_),
            lanes + 4 * lanes_,
            config_.sampled_actions > 0 ? reinterpret_cast<std::int32_t*>(last) : nullptr};
}

void Mcts::check_finite(const char* name, const float* values, std::int64_t rows, int columns) const {
    const std::int64_t count = rows * columns;
    Floats sums = all(0.0f);  // of zeros: 0 unless one of the values is not a number
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) sums += load(values + i) * 0.0f;
    float sum = sums[0] + sums[1] + sums[2] + sums[3];
    for (; i < count; ++i) sum += values[i] * 0.0f;
    if (sum == 0.0f) return;
    for (i = 0; i < count; ++i) {
        if (std::isfinite(values[i])) continue;
        const std::string action = columns > 1 ? ", action " + std::to_string(i % columns) : "";
        throw std::invalid_argument(std::string(name) + " must be finite, not " + std::to_string(values[i]) +
                                    " at row " + std::to_string(i / columns) + action);
    }
}

void Mcts::for_roots(std::int64_t count, const auto& body) const {
    if (!pool_ || count <= kRootsPerTask) {
        for (std::int64_t root = 0; root < count; ++root) body(root);
        return;
    }
    pool_->run((count + kRootsPerTask - 1) / kRootsPerTask, [&](std::int64_t task, int) {
        const std::int64_t end = std::min(count, (task + 1) * kRootsPerTask);
        for (std::int64_t root = task * kRootsPerTask; root < end; ++root) body(root);
    });
}

// Memory for so many trees; what it held is lost.
void Mcts::reserve(std::int64_t num_roots) {
    if (num_roots > capacity_) {
        const std::int64_t nodes = num_roots * (config_.simulations + 1);
        memory_ = std::make_unique_for_overwrite<std::byte[]>(nodes * node_size_);
        path_ = std::make_unique_for_overwrite<std::int32_t[]>(nodes);
        capacity_ = num_roots;
    }
    num_roots_ = num_roots;
    simulation_ = 0;
    paths_.resize(num_roots);
    ranges_.resize(num_roots);
    num_considered_.resize(num_roots);
    first_.assign(num_roots, 1);
    limits_.assign(num_roots, config_.simulations);
    if (config_.selection == Selection::kGumbel) gumbel_.assign(num_roots * lanes_, 0.0f);
}

void Mcts::begin(std::int64_t num_roots, const float* logits, const float* value, const std::uint8_t* invalid,
                 const std::uint64_t* seeds, bool noise, std::int64_t* leaf_parent,
                 std::int64_t* leaf_action) {
    start(num_roots, logits, value, invalid, seeds, noise, nullptr, leaf_parent, leaf_action);
}

void Mcts::start(std::int64_t num_roots, const float* logits, const float* value, const std::uint8_t* invalid,
                 const std::uint64_t* seeds, bool noise, const Kept* kept, std::int64_t* leaf_parent,
                 std::int64_t* leaf_action) {
    const int A = config_.num_actions;
    check_finite("logits", logits, num_roots, A);
    check_finite("value", value, num_roots, 1);
    for (std::int64_t root = 0; invalid && root < num_roots; ++root)
        if (std::all_of(invalid + root * A, invalid + (root + 1) * A, [](std::uint8_t flag) { return flag; }))
            throw std::invalid_argument("every root needs a valid action, but root " + std::to_string(root) +
                                        " has none");
    reserve(num_roots);
    seeds_.assign(seeds, seeds + num_roots);
    for_roots(num_roots, [&](std::int64_t root) {
        Node top = node(root, 0);
        top.header = {0.0f, 0.0f, 0.0f, 1.0f, 0, -1, -1, 0};
        evaluate(top, {logits + root * A, invalid ? invalid + root * A : nullptr, value[root]}, seeds[root],
                 0);
        ranges_[root] = {value[root], value[root]};
        if (kept) keep(root, *kept);
        if (config_.selection == Selection::kGumbel) {
            shift_logits(top);
            num_considered_[root] = std::min(top.header.num_valid, config_.max_considered);
            if (noise && config_.gumbel_scale > 0.0) draw_gumbel(root, seeds[root]);
        } else if (noise && config_.dirichlet_fraction > 0.0) {
            add_dirichlet(top, seeds[root]);
        }
        paths_[root].node = &path_[root * (config_.simulations + 1)];
        descend(root, &leaf_parent[root], &leaf_action[root]);
    });
    last_ = num_roots > 0 ? *std::max_element(limits_.begin(), limits_.end()) : 0;
}

void Mcts::expand(const float* logits, const float* value, const float* reward, const float* discount,
                  const std::uint8_t* invalid, std::int64_t* leaf_parent, std::int64_t* leaf_action) {
    const int A = config_.num_actions;
    if (num_roots_ == 0) throw std::invalid_argument("there are no roots: begin a search first");
    if (done())
        throw std::invalid_argument("the search is done after " + std::to_string(simulation_) +
                                    " simulations");
    check_finite("logits", logits, num_roots_, A);
    check_finite("value", value, num_roots_, 1);
    check_finite("reward", reward, num_roots_, 1);
    check_finite("discount", discount, num_roots_, 1);
    ++simulation_;
    const std::size_t bytes = num_roots_ * (config_.simulations + 1) * node_size_;
    for_roots(num_roots_, [&](std::int64_t root) {
        if (simulation_ > limits_[root]) return;
        const bool own =
            (root + 1) % kRootsPerTask != 0 && root + 1 < num_roots_;  // the next root's thread too
        if (bytes > kCached && own) prefetch(root + 1);
        grow(root, {logits + root * A, invalid ? invalid + root * A : nullptr, value[root]}, reward[root],
             discount[root]);
        if (simulation_ < limits_[root]) descend(root, &leaf_parent[root], &leaf_action[root]);
    });
}

// Asks for the memory that the next simulation of a root is about to use.
void Mcts::prefetch(std::int64_t root) const {
    const auto ask = [&](int index) {
        const std::byte* start = &memory_[(root * (config_.simulations + 1) + index) * node_size_];
        for (std::size_t offset = 0; offset < node_size_; offset += 64) __builtin_prefetch(start + offset, 1);
    };
    for (int depth = 0; depth < paths_[root].depth; ++depth) ask(paths_[root].node[depth]);
    ask(std::min(next_index(root), config_.simulations));
}

// Adds the leaf of the last descent to the tree, or evaluates it again, and backs its value up.
void Mcts::grow(std::int64_t root, const Evaluation& found, float reward, float discount) {
    const Path& path = paths_[root];
    const int parent = path.node[path.depth - 1];
    std::int32_t& child = node(root, parent).child[path.lane];
    const bool is_new = child < 0;
    if (is_new) child = next_index(root);
    Node leaf = node(root, child);
    leaf.header = {0.0f, 0.0f, reward, discount, is_new ? 0 : leaf.header.visits, parent, path.lane, 0};
    evaluate(leaf, found, seeds_[root], child);
    back_up(root, child);
}

void Mcts::back_up(std::int64_t root, int leaf) {
    const Path& path = paths_[root];
    const Header* child = &node(root, leaf).header;
    Range& range = ranges_[root];
    float value = child->value;
    for (int depth = path.depth - 1; depth >= 0; --depth) {
        const Node parent = node(root, path.node[depth]);
        Header& header = parent.header;
        const float count = static_cast<float>(header.visits);
        value = child->reward + child->discount * value;
        header.value = (header.value * count + value) / (count + 1.0f);
        ++header.visits;
        const float q = child->reward + child->discount * child->value;
        parent.q[child->lane] = q;
        parent.visits[child->lane] += 1.0f;
        range = {std::min(range.low, q), std::max(range.high, q)};
        child = &header;
    }
    range = {std::min(range.low, child->value), std::max(range.high, child->value)};
}

// Follows the selection from the root to a child that does not exist yet, to max_depth, or to a state without
// a valid action.
void Mcts::descend(std::int64_t root, std::int64_t* parent, std::int64_t* action) {
    Path& path = paths_[root];
    int index = 0;
    for (path.depth = 0;;) {
        path.node[path.depth++] = index;
        path.lane = select(root, index);
        const int next = node(root, index).child[path.lane];
        if (next < 0 || path.depth == config_.max_depth || node(root, next).header.num_valid == 0) break;
        index = next;
    }
    *parent = index;
    *action = node(root, index).id(path.lane);
}

}  // namespace native
