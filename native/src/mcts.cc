#include "native/mcts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "native/rng.h"
#include "require.h"

namespace native {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kEpsilon = 1e-8f;
constexpr float kLowest = -1e9f;  // of a considered action's score, so that it beats those not considered
constexpr std::int64_t kRootsPerTask = 16;

// Four floats, lane by lane: what every x86-64 and arm64 processor has.
constexpr int kLanes = 4;
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * sizeof(float))));

Floats load(const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

Floats all(float value) { return Floats{value, value, value, value}; }
Floats least(Floats a, Floats b) { return a < b ? a : b; }
Floats most(Floats a, Floats b) { return a > b ? a : b; }
float least(Floats v) { return std::min(std::min(v[0], v[1]), std::min(v[2], v[3])); }
float most(Floats v) { return std::max(std::max(v[0], v[1]), std::max(v[2], v[3])); }

// The index of the largest score, the first of equals.
class ArgMax {
  public:
    void add(int first, Floats scores) {
        const Ints index = Ints{0, 1, 2, 3} + first;
        const auto better = scores > score_;
        score_ = better ? scores : score_;
        index_ = better ? index : index_;
    }
    int index() const {
        int best = 0;
        for (int lane = 1; lane < kLanes; ++lane) {
            const bool equal = score_[lane] == score_[best];
            if (score_[lane] > score_[best] || (equal && index_[lane] < index_[best])) best = lane;
        }
        return index_[best];
    }

  private:
    Floats score_ = all(-kInfinity);
    Ints index_ = {0, 0, 0, 0};
};

// Numbers in (0, 1) for one root and purpose.
class Uniforms {
  public:
    Uniforms(std::uint64_t seed, std::uint32_t purpose, std::uint32_t action)
        : seed_(seed), purpose_(purpose), action_(action) {}
    double next() {
        const Philox4x32 words = philox4x32({draw_++, action_, purpose_, 0}, seed_);
        return (static_cast<double>(words[0]) + 0.5) * 0x1p-32;
    }
    double normal() {  // Box and Muller 1958
        const double radius = std::sqrt(-2.0 * std::log(next()));
        return radius * std::cos(6.283185307179586476925 * next());
    }

  private:
    std::uint64_t seed_;
    std::uint32_t purpose_, action_, draw_ = 0;
};

constexpr std::uint32_t kDirichlet = 0, kGumbelNoise = 1;

// Gamma(alpha, 1) of Marsaglia and Tsang 2000, "A simple method for generating gamma variables".
double gamma(double alpha, Uniforms& uniforms) {
    if (alpha < 1.0) {
        const double boost = std::pow(uniforms.next(), 1.0 / alpha);
        return gamma(alpha + 1.0, uniforms) * boost;
    }
    const double d = alpha - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
    while (true) {
        const double x = uniforms.normal();
        const double v = std::pow(1.0 + c * x, 3.0);
        if (v > 0.0 && std::log(uniforms.next()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
    }
}

// The largest logit where the mask is not -inf.
float largest(const float* logits, const float* mask, int lanes) {
    float found = -kInfinity;
    for (int i = 0; i < lanes; ++i) found = std::max(found, logits[i] + mask[i]);
    return found;
}

// Probabilities of logits, in place; lanes whose mask is -inf get 0.
void softmax(float* logits, const float* mask, int lanes) {
    const float shift = largest(logits, mask, lanes);
    float total = 0.0f;
    for (int i = 0; i < lanes; ++i) {
        logits[i] = mask[i] == 0.0f ? std::exp(logits[i] - shift) : 0.0f;
        total += logits[i];
    }
    for (int i = 0; i < lanes; ++i) logits[i] /= total;
}

void check(const MctsConfig& c) {
    require(c.num_actions >= 1, "num_actions must be at least 1", c.num_actions);
    require(c.simulations >= 1, "simulations must be at least 1", c.simulations);
    require(c.max_depth >= 0, "max_depth must not be negative", c.max_depth);
    require(c.c1 >= 0.0 && std::isfinite(c.c1), "c1 must be finite and not negative", c.c1);
    require(c.c2 > 0.0 && std::isfinite(c.c2), "c2 must be positive", c.c2);
    require(c.dirichlet_alpha > 0.0 && std::isfinite(c.dirichlet_alpha), "dirichlet_alpha must be positive",
            c.dirichlet_alpha);
    require(c.dirichlet_fraction >= 0.0 && c.dirichlet_fraction <= 1.0,
            "dirichlet_fraction must be in [0, 1]", c.dirichlet_fraction);
    require(c.gumbel_scale >= 0.0 && std::isfinite(c.gumbel_scale),
            "gumbel_scale must be finite and not negative", c.gumbel_scale);
    require(c.max_considered >= 1, "max_considered must be at least 1", c.max_considered);
    require(c.value_scale >= 0.0 && std::isfinite(c.value_scale),
            "value_scale must be finite and not negative", c.value_scale);
    require(c.maxvisit_init >= 0.0 && std::isfinite(c.maxvisit_init),
            "maxvisit_init must be finite and not negative", c.maxvisit_init);
}

}  // namespace

std::vector<int> halving_sequence(int considered, int simulations) {
    require(considered >= 1, "considered must be at least 1", considered);
    require(simulations >= 0, "simulations must not be negative", simulations);
    std::vector<int> sequence, visits(considered, 0);
    sequence.reserve(simulations);
    const int rounds = static_cast<int>(std::ceil(std::log2(std::max(considered, 2))));
    const int fewest = std::min(considered, 2);
    while (static_cast<int>(sequence.size()) < simulations) {
        const int repeats = std::max(1, simulations / (rounds * considered));
        for (int repeat = 0; repeat < repeats; ++repeat)
            for (int i = 0; i < considered; ++i) sequence.push_back(visits[i]++);
        considered = std::max(fewest, considered / 2);
    }
    sequence.resize(simulations);
    return sequence;
}

Mcts::Mcts(const MctsConfig& config, int threads) : config_(config) {
    check(config_);
    if (threads != 1) pool_ = std::make_unique<ThreadPool>(threads);
    const int A = config_.num_actions, S = config_.simulations;
    lanes_ = (A + kLanes - 1) / kLanes * kLanes;
    const bool gumbel = config_.selection == Selection::kGumbel;
    node_size_ = sizeof(Header) + (gumbel ? 5 : 4) * lanes_ * sizeof(float);
    for (int visits = 0; visits <= S + 1; ++visits)
        exploration_.push_back(
            static_cast<float>(std::sqrt(static_cast<double>(visits)) *
                               (config_.c1 + std::log((visits + config_.c2 + 1.0) / config_.c2))));
    mask_.assign(lanes_, -kInfinity);
    std::fill_n(mask_.begin(), A, 0.0f);
    if (gumbel) {
        halving_.resize(1);
        for (int considered = 1; considered <= std::min(A, config_.max_considered); ++considered)
            halving_.push_back(halving_sequence(considered, S));
    }
}

Mcts::Node Mcts::node(std::int64_t root, int index) const {
    std::byte* start = &memory_[(root * (config_.simulations + 1) + index) * node_size_];
    float* lanes = reinterpret_cast<float*>(start + sizeof(Header));
    return {*reinterpret_cast<Header*>(start),
            lanes,
            lanes + lanes_,
            lanes + 2 * lanes_,
            reinterpret_cast<std::int32_t*>(lanes + 3 * lanes_),
            lanes + 4 * lanes_};
}

void Mcts::check_finite(const char* name, const float* values, std::int64_t count) const {
    // A sum of zeros is 0 unless one of them is not a number.
    float sum = 0.0f;
    for (std::int64_t i = 0; i < count; ++i) sum += values[i] * 0.0f;
    if (sum == 0.0f) return;
    for (std::int64_t i = 0; i < count; ++i)
        if (!std::isfinite(values[i]))
            throw std::invalid_argument(std::string(name) + " must be finite, not " +
                                        std::to_string(values[i]) + " at entry " + std::to_string(i));
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

void Mcts::begin(std::int64_t num_roots, const float* logits, const float* value, const std::uint8_t* invalid,
                 const std::uint64_t* seeds, std::int64_t* leaf_parent, std::int64_t* leaf_action) {
    const int A = config_.num_actions;
    const std::int64_t nodes_per_root = config_.simulations + 1;
    check_finite("logits", logits, num_roots * A);
    check_finite("value", value, num_roots);
    std::vector<int> num_considered(num_roots, A);
    for (std::int64_t root = 0; invalid && root < num_roots; ++root) {
        num_considered[root] -= static_cast<int>(std::count_if(invalid + root * A, invalid + (root + 1) * A,
                                                               [](std::uint8_t flag) { return flag != 0; }));
        if (num_considered[root] == 0)
            throw std::invalid_argument("every root needs a valid action, but root " + std::to_string(root) +
                                        " has none");
    }
    if (num_roots > capacity_) {
        memory_ = std::make_unique_for_overwrite<std::byte[]>(num_roots * nodes_per_root * node_size_);
        path_ = std::make_unique_for_overwrite<std::int32_t[]>(num_roots * nodes_per_root);
        capacity_ = num_roots;
    }
    num_roots_ = num_roots;
    simulation_ = 0;
    num_considered_ = std::move(num_considered);
    paths_.resize(num_roots);
    if (config_.selection == Selection::kGumbel) gumbel_.assign(num_roots * lanes_, 0.0f);
    masks_.clear();
    if (invalid) {
        masks_.assign(num_roots * lanes_, -kInfinity);
        for (std::int64_t root = 0; root < num_roots; ++root)
            for (int a = 0; a < A; ++a)
                if (!invalid[root * A + a]) masks_[root * lanes_ + a] = 0.0f;
    }
    for_roots(num_roots, [&](std::int64_t root) {
        Node top = node(root, 0);
        top.header = {0.0f, 0.0f, 0.0f, 1.0f, 0, -1, -1};
        evaluate(top, logits + root * A, value[root], mask(root));
        if (config_.selection == Selection::kGumbel) {
            shift_logits(top, mask(root));
            num_considered_[root] = std::min(num_considered_[root], config_.max_considered);
            if (config_.gumbel_scale > 0.0) draw_gumbel(root, seeds[root]);
        } else if (config_.dirichlet_fraction > 0.0) {
            add_dirichlet(top, mask(root), seeds[root]);
        }
        paths_[root].node = &path_[root * nodes_per_root];
        descend(root, &leaf_parent[root], &leaf_action[root]);
    });
}

void Mcts::expand(const float* logits, const float* value, const float* reward, const float* discount,
                  std::int64_t* leaf_parent, std::int64_t* leaf_action) {
    const int A = config_.num_actions;
    if (num_roots_ == 0) throw std::invalid_argument("there are no roots: begin a search first");
    if (done())
        throw std::invalid_argument("the search is done after " + std::to_string(simulation_) +
                                    " simulations");
    check_finite("logits", logits, num_roots_ * A);
    check_finite("value", value, num_roots_);
    check_finite("reward", reward, num_roots_);
    check_finite("discount", discount, num_roots_);
    ++simulation_;
    for_roots(num_roots_, [&](std::int64_t root) {
        grow(root, logits + root * A, value[root], reward[root], discount[root]);
        if (!done()) descend(root, &leaf_parent[root], &leaf_action[root]);
    });
}

// Stores the model's evaluation of a node and counts it as a visit.
void Mcts::evaluate(Node node, const float* logits, float value, const float* mask) const {
    node.header.value = node.header.raw_value = value;
    if (node.header.visits++ == 0) {
        std::fill_n(node.q, lanes_, 0.0f);
        std::fill_n(node.visits, lanes_, 0.0f);
        std::fill_n(node.child, lanes_, -1);
    }
    std::fill(std::copy_n(logits, config_.num_actions, node.prior), node.prior + lanes_, 0.0f);
    if (config_.selection == Selection::kGumbel) std::copy_n(node.prior, lanes_, node.logits);
    softmax(node.prior, mask, lanes_);
}

// Makes the largest of the root's valid logits 0, so that they compare with kLowest.
void Mcts::shift_logits(Node root, const float* mask) const {
    const float shift = largest(root.logits, mask, lanes_);
    for (int i = 0; i < lanes_; ++i) root.logits[i] -= shift;
}

// Mixes noise over the valid actions into the root's prior.
void Mcts::add_dirichlet(Node root, const float* mask, std::uint64_t seed) const {
    std::vector<double> noise(config_.num_actions, 0.0);
    double total = 0.0;
    for (int a = 0; a < config_.num_actions; ++a) {
        if (mask[a] != 0.0f) continue;
        Uniforms uniforms(seed, kDirichlet, static_cast<std::uint32_t>(a));
        noise[a] = gamma(config_.dirichlet_alpha, uniforms);
        total += noise[a];
    }
    if (!(total > 0.0)) return;  // every variable underflowed
    const double share = config_.dirichlet_fraction;
    for (int a = 0; a < config_.num_actions; ++a)
        root.prior[a] = static_cast<float>((1.0 - share) * root.prior[a] + share * noise[a] / total);
}

void Mcts::draw_gumbel(std::int64_t root, std::uint64_t seed) {
    for (int a = 0; a < config_.num_actions; ++a) {
        Uniforms uniforms(seed, kGumbelNoise, static_cast<std::uint32_t>(a));
        gumbel_[root * lanes_ + a] =
            static_cast<float>(-config_.gumbel_scale * std::log(-std::log(uniforms.next())));
    }
}

// Adds the leaf of the last descent to the tree, or evaluates it again, and backs its value up.
void Mcts::grow(std::int64_t root, const float* logits, float value, float reward, float discount) {
    const Path& path = paths_[root];
    const int parent = path.node[path.depth - 1];
    std::int32_t& child = node(root, parent).child[path.action];
    const bool is_new = child < 0;
    if (is_new) child = simulation_;
    Node leaf = node(root, child);
    leaf.header = {0.0f, 0.0f, reward, discount, is_new ? 0 : leaf.header.visits, parent, path.action};
    evaluate(leaf, logits, value, mask_.data());
    back_up(root, child);
}

void Mcts::back_up(std::int64_t root, int leaf) const {
    const Path& path = paths_[root];
    const Header* child = &node(root, leaf).header;
    float value = child->value;
    for (int depth = path.depth - 1; depth >= 0; --depth) {
        const Node parent = node(root, path.node[depth]);
        Header& header = parent.header;
        const float count = static_cast<float>(header.visits);
        value = child->reward + child->discount * value;
        header.value = (header.value * count + value) / (count + 1.0f);
        ++header.visits;
        parent.q[child->action] = child->reward + child->discount * child->value;
        parent.visits[child->action] += 1.0f;
        child = &header;
    }
}

// Follows the selection from the root to a child that does not exist yet, or to max_depth.
void Mcts::descend(std::int64_t root, std::int64_t* parent, std::int64_t* action) {
    Path& path = paths_[root];
    int index = 0;
    for (path.depth = 0;;) {
        path.node[path.depth++] = index;
        path.action = select(root, index);
        const int next = node(root, index).child[path.action];
        if (next < 0 || path.depth == config_.max_depth) break;
        index = next;
    }
    *parent = index;
    *action = path.action;
}

int Mcts::select(std::int64_t root, int index) const {
    const Node here = node(root, index);
    if (config_.selection == Selection::kPuct)
        return select_puct(here, index == 0 ? mask(root) : mask_.data());
    if (index > 0) return select_improved(here);
    return select_considered(root, static_cast<float>(halving_[num_considered_[root]][simulation_]));
}

// Schrittwieser et al. 2020, eq. 2, with Q scaled by the extremes within the node.
int Mcts::select_puct(const Node& node, const float* mask) const {
    const Floats own = all(node.header.value);
    Floats low = own, high = own;
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats q = load(node.visits + i) > 0.0f ? load(node.q + i) : own;
        low = least(low, q);
        high = most(high, q);
    }
    const float lowest = least(low);
    const Floats range = all(std::max(most(high) - lowest, kEpsilon)), floor = all(lowest);
    const Floats explore = all(exploration_[node.header.visits]);
    ArgMax best;
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats visits = load(node.visits + i);
        const Floats q = visits > 0.0f ? load(node.q + i) : floor;
        best.add(i, explore * load(node.prior + i) / (visits + 1.0f) + (q - floor) / range + load(mask + i));
    }
    return best.index();
}

// Of the root's actions with so many visits, the one with the best of Gumbel noise, logits and Q together.
int Mcts::select_considered(std::int64_t root, float visits) const {
    const Node top = node(root, 0);
    const float *q = completed(top), *noise = &gumbel_[root * lanes_], *masks = mask(root);
    ArgMax best;
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats score = load(noise + i) + load(top.logits + i) + load(q + i);
        const Floats considered = load(top.visits + i) == visits ? all(0.0f) : all(-kInfinity);
        best.add(i, most(score, all(kLowest)) + considered + load(masks + i));
    }
    return best.index();
}

// The action whose share of the visits is farthest below the improved policy (Danihelka et al. 2022, eq. 14).
int Mcts::select_improved(const Node& node) const {
    const float* policy = improved_policy(node, mask_.data());
    const Floats total = all(static_cast<float>(node.header.visits));  // of the children, and 1
    ArgMax best;
    for (int i = 0; i < lanes_; i += kLanes)
        best.add(i, load(policy + i) - load(node.visits + i) / total + load(&mask_[i]));
    return best.index();
}

// Q values in logits, those of unvisited actions completed by the mixed value (Danihelka et al. 2022, eq. 8,
// 33).
float* Mcts::completed(const Node& node) const {
    thread_local std::vector<float> scratch;
    scratch.resize(lanes_);
    const int A = config_.num_actions;
    const auto prior = [&](int a) { return std::max(node.prior[a], std::numeric_limits<float>::min()); };
    float total = 0.0f, weighted = 0.0f, most_visits = 0.0f;
    for (int a = 0; a < A; ++a) {
        if (node.visits[a] > 0.0f) total += prior(a);
        most_visits = std::max(most_visits, node.visits[a]);
    }
    for (int a = 0; a < A; ++a)
        if (node.visits[a] > 0.0f) weighted += prior(a) * node.q[a] / total;
    const float visits = static_cast<float>(node.header.visits - 1);
    const float mixed = (node.header.raw_value + visits * weighted) / (visits + 1.0f);
    Floats low = all(kInfinity), high = all(-kInfinity);
    for (int i = 0; i < lanes_; i += kLanes) {
        const Floats q = load(node.visits + i) > 0.0f ? load(node.q + i) : all(mixed);
        std::memcpy(&scratch[i], &q, sizeof q);
        low = least(low, q - load(&mask_[i]));
        high = most(high, q + load(&mask_[i]));
    }
    const float shift = config_.rescale ? least(low) : 0.0f;
    const float range = config_.rescale ? std::max(most(high) - shift, kEpsilon) : 1.0f;
    const float scale =
        (static_cast<float>(config_.maxvisit_init) + most_visits) * static_cast<float>(config_.value_scale);
    for (float& q : scratch) q = scale * ((q - shift) / range);
    return scratch.data();
}

// softmax(logits + completed Q).
float* Mcts::improved_policy(const Node& node, const float* mask) const {
    float* policy = completed(node);
    for (int i = 0; i < lanes_; ++i) policy[i] += node.logits[i];
    softmax(policy, mask, lanes_);
    return policy;
}

void Mcts::root(std::int32_t* visits, float* q, float* value) const {
    for (std::int64_t root = 0; root < num_roots_; ++root) {
        const Node top = node(root, 0);
        for (int a = 0; a < config_.num_actions; ++a) {
            const bool visited = top.visits[a] > 0.0f;
            *visits++ = static_cast<std::int32_t>(top.visits[a]);
            *q++ = visited ? top.q[a] : std::numeric_limits<float>::quiet_NaN();
        }
        *value++ = top.header.value;
    }
}

void Mcts::policy(float* weights, std::int64_t* action) const {
    const int A = config_.num_actions;
    for (std::int64_t root = 0; root < num_roots_; ++root, weights += A) {
        const Node top = node(root, 0);
        const float most_visits = *std::max_element(top.visits, top.visits + A);
        if (config_.selection == Selection::kGumbel) {
            *action++ = select_considered(root, most_visits);
            std::copy_n(improved_policy(top, mask(root)), A, weights);
            continue;
        }
        const float total = static_cast<float>(top.header.visits - 1);
        const float* shares = total > 0.0f ? top.visits : top.prior;  // the prior's sum is 1
        *action++ = std::max_element(shares, shares + A) - shares;
        for (int a = 0; a < A; ++a) weights[a] = shares[a] / std::max(total, 1.0f);
    }
}

void Mcts::nodes(std::int32_t* parent, std::int32_t* action, std::int32_t* visits, float* value) const {
    const std::int64_t count = num_roots_ * (config_.simulations + 1);
    std::fill_n(parent, count, -1);
    std::fill_n(action, count, -1);
    std::fill_n(visits, count, 0);
    std::fill_n(value, count, 0.0f);
    for (std::int64_t root = 0; root < num_roots_; ++root) {
        const std::int64_t first = root * (config_.simulations + 1);
        std::vector<int> open{0};
        while (!open.empty()) {
            const int index = open.back();
            open.pop_back();
            const Node here = node(root, index);
            parent[first + index] = here.header.parent;
            action[first + index] = here.header.action;
            visits[first + index] = here.header.visits;
            value[first + index] = here.header.value;
            for (int a = 0; a < config_.num_actions; ++a)
                if (here.child[a] >= 0) open.push_back(here.child[a]);
        }
    }
}

}  // namespace native
