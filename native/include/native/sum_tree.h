// A sum tree over float64 priorities: draws leaves in proportion to them (Schaul et al. 2016, appendix
// B.2.1).
//
// Every node is one cache line of eight children's sums, level above level:
//
//     level 2   [ s0 s1 ]                        the root node; its sum is the total
//     level 1   [ s s s s s s s s ][ s s ... ]   entry i is the sum of node i below
//     level 0   [ p p p p p p p p ][ p p ... ]   the leaves
//
// Batches go through the tree level by level, so that the cache misses of a batch overlap. An update
// recomputes the sums above the changed leaves from their children instead of adding differences: every sum
// is at all times the rounded sum of its children, bit for bit what a rebuild gives, and errors never
// accumulate.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace native {

// Priorities of a fixed number of leaves, 0 at first. Not thread-safe. Invalid arguments (indices outside the
// tree; priorities that are NaN, negative, infinite or above max_priority) throw std::invalid_argument with
// the offending value before anything changes.
class SumTree {
  public:
    // size >= 1 leaves.
    explicit SumTree(std::int64_t size);

    std::int64_t size() const { return size_; }
    double total() const { return total_; }
    // The largest priority a leaf may have: the total of leaves like it is still finite.
    double max_priority() const { return max_priority_; }

    // Sets leaf index[i] to priority[i] for i in [0, count); of repeated indices the last wins.
    void update(const std::int64_t* index, const double* priority, std::int64_t count);
    // Sets the leaves first, first + 1, ... to priority[0 .. count).
    void assign(std::int64_t first, const double* priority, std::int64_t count);
    // Sets the leaves first .. first + count - 1 to one priority.
    void fill(std::int64_t first, std::int64_t count, double priority);

    // priority[i] of leaf index[i].
    void get(const std::int64_t* index, double* priority, std::int64_t count) const;

    // The leaf index[i] in which uniform[i] * total falls and its priority, never a leaf of priority 0.
    // Uniforms must lie in [0, 1). Throws std::invalid_argument if the total is 0.
    void sample(const double* uniform, std::int64_t* index, double* priority, std::int64_t count) const;

  private:
    static constexpr std::int64_t kWidth = 8;

    struct alignas(64) Node {
        std::array<double, kWidth> value{};
        double sum() const;
    };

    void check_index(std::int64_t index) const;
    void check_range(std::int64_t first, std::int64_t count) const;
    void check_priority(double priority) const;
    void refresh(std::int64_t first, std::int64_t count);

    std::int64_t size_;
    double max_priority_;
    double total_ = 0.0;
    std::vector<std::vector<Node>> levels_;    // leaves first, the root's level (one node) last
    std::vector<std::int64_t> changed_nodes_;  // scratch of update
};

}  // namespace native
