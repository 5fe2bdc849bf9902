#include "native/lanes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace native {
namespace {

constexpr double kCell = LaneGrid::kReach;
constexpr double kOpposite = 3.0;  // metres that the opposite direction counts

void check_sizes(bool right, const char* what) {
    if (!right) throw std::invalid_argument(std::string("the lane network is inconsistent: ") + what);
}

bool in_range(const std::vector<std::int64_t>& indices, std::int64_t low, std::int64_t high) {
    return std::all_of(indices.begin(), indices.end(), [&](auto i) { return i >= low && i < high; });
}

bool is_partition(const std::vector<std::int64_t>& first, std::size_t total) {
    return !first.empty() && first.front() == 0 && first.back() == static_cast<std::int64_t>(total) &&
           std::is_sorted(first.begin(), first.end());
}

}  // namespace

void check_network(const LaneNetwork& n) {
    check_sizes(n.y.size() == n.x.size() && n.yaw.size() == n.x.size(), "x, y and yaw differ in length");
    check_sizes(is_partition(n.first, n.x.size()), "first does not divide the points");
    check_sizes(n.lanes() > 0, "there is no lane");
    for (std::int64_t lane = 0; lane < n.lanes(); ++lane)
        check_sizes(n.first[lane + 1] - n.first[lane] >= 2, "a lane has fewer than two points");
    const auto lanes = static_cast<std::size_t>(n.lanes());
    check_sizes(n.next_first.size() == lanes + 1 && is_partition(n.next_first, n.next.size()),
                "next_first does not divide next");
    for (const auto* per_lane : {&n.left, &n.right, &n.junction, &n.gate})
        check_sizes(per_lane->size() == lanes, "left, right, junction or gate is not of one entry a lane");
    check_sizes(n.limit.size() == lanes, "limit is not of one entry a lane");
    check_sizes(in_range(n.next, 0, n.lanes()), "next names a lane that is not there");
    check_sizes(in_range(n.left, -1, n.lanes()) && in_range(n.right, -1, n.lanes()),
                "left or right names a lane that is not there");
    const auto finite = [](double value) { return std::isfinite(value); };
    for (const auto* values : {&n.x, &n.y, &n.yaw, &n.limit})
        check_sizes(std::all_of(values->begin(), values->end(), finite), "a number is not finite");
}

LaneGrid::LaneGrid(const LaneNetwork& network) : network_(network) {
    const auto [low_x, high_x] = std::minmax_element(network.x.begin(), network.x.end());
    const auto [low_y, high_y] = std::minmax_element(network.y.begin(), network.y.end());
    low_x_ = *low_x - kCell;
    low_y_ = *low_y - kCell;
    columns_ = static_cast<std::int64_t>((*high_x - low_x_) / kCell) + 2;
    rows_ = static_cast<std::int64_t>((*high_y - low_y_) / kCell) + 2;
    const auto cell_of = [&](std::int64_t point) {
        return static_cast<std::int64_t>((network.x[point] - low_x_) / kCell) * rows_ +
               static_cast<std::int64_t>((network.y[point] - low_y_) / kCell);
    };
    start_.assign(static_cast<std::size_t>(columns_ * rows_ + 1), 0);
    for (std::int64_t point = 0; point < network.points(); ++point) ++start_[cell_of(point) + 1];
    for (std::size_t cell = 1; cell < start_.size(); ++cell) start_[cell] += start_[cell - 1];
    members_.resize(static_cast<std::size_t>(network.points()));
    std::vector<std::int64_t> next(start_);
    for (std::int64_t point = 0; point < network.points(); ++point) members_[next[cell_of(point)]++] = point;
}

std::int64_t LaneGrid::nearest(double x, double y, double yaw, bool use_yaw) const {
    const double column = std::floor((x - low_x_) / kCell), row = std::floor((y - low_y_) / kCell);
    if (!(column >= -1 && column <= static_cast<double>(columns_) && row >= -1 &&
          row <= static_cast<double>(rows_)))
        return -1;
    const auto c = static_cast<std::int64_t>(column), r = static_cast<std::int64_t>(row);
    double best = std::numeric_limits<double>::infinity();
    std::int64_t found = -1;
    for (std::int64_t i = std::max<std::int64_t>(c - 1, 0); i <= std::min(c + 1, columns_ - 1); ++i) {
        for (std::int64_t j = std::max<std::int64_t>(r - 1, 0); j <= std::min(r + 1, rows_ - 1); ++j) {
            for (std::int64_t k = start_[i * rows_ + j]; k < start_[i * rows_ + j + 1]; ++k) {
                const std::int64_t point = members_[k];
                const double dx = network_.x[point] - x, dy = network_.y[point] - y;
                const double square = dx * dx + dy * dy;
                if (square >= kReach * kReach) continue;
                double cost = square;
                if (use_yaw) {
                    const double turned = kOpposite * 0.5 * (1.0 - std::cos(network_.yaw[point] - yaw));
                    const double far = std::sqrt(square) + turned;
                    cost = far * far;
                }
                if (cost < best || (cost == best && point < found)) {
                    best = cost;
                    found = point;
                }
            }
        }
    }
    return found;
}

}  // namespace native
