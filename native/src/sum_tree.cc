#include "native/sum_tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

namespace native {
namespace {

constexpr std::int64_t kBlock = 256;  // leaves drawn together; their state fits the first-level cache
constexpr double kPastEnd = std::numeric_limits<double>::infinity();

std::string text(double value) {
    std::ostringstream stream;
    stream.precision(17);
    stream << value;
    return stream.str();
}

}  // namespace

// The order of the additions is that of the running sums in `sample`: both see the same rounding.
double SumTree::Node::sum() const {
    double sum = value[0];
    for (std::int64_t i = 1; i < kWidth; ++i) sum += value[i];
    return sum;
}

SumTree::SumTree(std::int64_t size) : size_(size), max_priority_(0.0) {
    if (size < 1) throw std::invalid_argument("size must be at least 1, not " + std::to_string(size));
    for (std::int64_t entries = size; levels_.empty() || entries > 1;) {
        entries = (entries + kWidth - 1) / kWidth;
        levels_.emplace_back(static_cast<std::size_t>(entries));
    }
    max_priority_ = std::numeric_limits<double>::max() / (2.0 * static_cast<double>(size));
}

void SumTree::update(const std::int64_t* index, const double* priority, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
        check_index(index[i]);
        check_priority(priority[i]);
    }
    if (count == 0) return;
    std::vector<Node>& leaves = levels_.front();
    changed_nodes_.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
        __builtin_prefetch(&leaves[static_cast<std::size_t>(index[i] / kWidth)], 1);
        changed_nodes_[static_cast<std::size_t>(i)] = index[i] / kWidth;
    }
    for (std::int64_t i = 0; i < count; ++i)
        leaves[static_cast<std::size_t>(index[i] / kWidth)].value[index[i] % kWidth] = priority[i];
    for (std::size_t level = 0; level + 1 < levels_.size(); ++level) {
        const std::vector<Node>& children = levels_[level];
        std::vector<Node>& parents = levels_[level + 1];
        for (const std::int64_t node : changed_nodes_)
            __builtin_prefetch(&parents[static_cast<std::size_t>(node / kWidth)], 1);
        for (std::int64_t& node : changed_nodes_) {
            parents[static_cast<std::size_t>(node / kWidth)].value[node % kWidth] =
                children[static_cast<std::size_t>(node)].sum();
            node /= kWidth;
        }
    }
    total_ = levels_.back().front().sum();
}

void SumTree::assign(std::int64_t first, const double* priority, std::int64_t count) {
    check_range(first, count);
    for (std::int64_t i = 0; i < count; ++i) check_priority(priority[i]);
    for (std::int64_t i = 0; i < count; ++i)
        levels_.front()[static_cast<std::size_t>((first + i) / kWidth)].value[(first + i) % kWidth] =
            priority[i];
    refresh(first, count);
}

void SumTree::fill(std::int64_t first, std::int64_t count, double priority) {
    check_range(first, count);
    check_priority(priority);
    for (std::int64_t i = first; i < first + count; ++i)
        levels_.front()[static_cast<std::size_t>(i / kWidth)].value[i % kWidth] = priority;
    refresh(first, count);
}

void SumTree::get(const std::int64_t* index, double* priority, std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) check_index(index[i]);
    for (std::int64_t i = 0; i < count; ++i)
        priority[i] = levels_.front()[static_cast<std::size_t>(index[i] / kWidth)].value[index[i] % kWidth];
}

void SumTree::sample(const double* uniform, std::int64_t* index, double* priority, std::int64_t count) const {
    if (!(total_ > 0.0)) throw std::invalid_argument("no leaf has a positive priority");
    for (std::int64_t i = 0; i < count; ++i) {
        if (!(uniform[i] >= 0.0 && uniform[i] < 1.0))
            throw std::invalid_argument("uniforms must lie in [0, 1), not " + text(uniform[i]));
    }
    std::array<double, kBlock> rest;  // what remains of the drawn number inside the current node
    for (std::int64_t begin = 0; begin < count; begin += kBlock) {
        const std::int64_t block = std::min(kBlock, count - begin);
        std::int64_t* node = index + begin;
        for (std::int64_t i = 0; i < block; ++i) {
            node[i] = 0;
            rest[i] = uniform[begin + i] * total_;
        }
        for (std::size_t level = levels_.size(); level-- > 0;) {
            const Node* nodes = levels_[level].data();
            const Node* below = level > 0 ? levels_[level - 1].data() : nullptr;
            for (std::int64_t i = 0; i < block; ++i) {
                const Node& current = nodes[node[i]];
                // The first child whose running sum exceeds the rest. Its own value is then positive, for a
                // value of 0 leaves the running sum as it was.
                double sum = 0.0, before = 0.0;
                std::int64_t child = 0;
                for (std::int64_t j = 0; j < kWidth; ++j) {
                    sum += current.value[j];
                    const bool passed = sum <= rest[i];
                    child += passed;
                    before = passed ? sum : before;
                }
                if (child == kWidth) {  // rounding led past the node's sum: take its last positive child
                    do --child;
                    while (!(current.value[child] > 0.0));
                    rest[i] = kPastEnd;
                } else {
                    rest[i] -= before;
                }
                node[i] = node[i] * kWidth + child;
                if (below != nullptr)
                    __builtin_prefetch(&below[node[i]]);
                else
                    priority[begin + i] = current.value[child];
            }
        }
    }
}

void SumTree::check_index(std::int64_t index) const {
    if (index < 0 || index >= size_)
        throw std::invalid_argument("index must lie in [0, " + std::to_string(size_) + "), not " +
                                    std::to_string(index));
}

void SumTree::check_range(std::int64_t first, std::int64_t count) const {
    if (first < 0 || count < 0 || first > size_ - count)
        throw std::invalid_argument("the leaves must lie in [0, " + std::to_string(size_) + "), not " +
                                    std::to_string(count) + " from " + std::to_string(first) + " on");
}

void SumTree::check_priority(double priority) const {
    if (!(priority >= 0.0 && priority <= max_priority_))
        throw std::invalid_argument("priorities must lie in [0, " + text(max_priority_) + "], not " +
                                    text(priority));
}

// Recomputes the sums above the leaves first .. first + count - 1.
void SumTree::refresh(std::int64_t first, std::int64_t count) {
    if (count == 0) return;
    std::int64_t begin = first / kWidth, end = (first + count - 1) / kWidth;
    for (std::size_t level = 0; level + 1 < levels_.size(); ++level) {
        for (std::int64_t node = begin; node <= end; ++node)
            levels_[level + 1][static_cast<std::size_t>(node / kWidth)].value[node % kWidth] =
                levels_[level][static_cast<std::size_t>(node)].sum();
        begin /= kWidth;
        end /= kWidth;
    }
    total_ = levels_.back().front().sum();
}

}  // namespace native
