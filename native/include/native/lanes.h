// The lanes of a road network as polylines, with a grid in which the nearest of their points is found.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace native {

// Lanes in their driving direction. Lane l has the points [first[l], first[l + 1]).
struct LaneNetwork {
    std::vector<double> x, y, yaw;         // per point; radians, clockwise seen from above
    std::vector<std::int64_t> first;       // lanes + 1
    std::vector<std::int64_t> next_first;  // lanes + 1: lane l leads to next[next_first[l]...]
    std::vector<std::int64_t> next;
    std::vector<std::int64_t> left, right;  // per lane: the one beside it in the same direction, -1 for none
    std::vector<std::int64_t> junction;     // per lane: its junction, -1 outside
    std::vector<double> limit;              // per lane, m/s
    std::vector<std::int64_t> gate;         // per lane: the traffic light that must be green to enter, or -1

    std::int64_t lanes() const { return static_cast<std::int64_t>(first.size()) - 1; }
    std::int64_t points() const { return static_cast<std::int64_t>(x.size()); }
};

// Throws std::invalid_argument where sizes do not fit or an index is out of range.
void check_network(const LaneNetwork& network);

// Finds points in the plane.
class LaneGrid {
  public:
    // The network must outlive the grid.
    explicit LaneGrid(const LaneNetwork& network);

    // Index of the point nearest to (x, y), or -1 where there is none within `kReach`. Points whose direction
    // differs from `yaw` count as farther away, by up to 3 m for the opposite one; pass use_yaw = false to
    // look at distances alone. Of equally near points it is the first.
    std::int64_t nearest(double x, double y, double yaw, bool use_yaw) const;

    static constexpr double kReach = 8.0;

  private:
    const LaneNetwork& network_;
    double low_x_ = 0, low_y_ = 0;
    std::int64_t columns_ = 0, rows_ = 0;
    std::vector<std::int64_t> start_, members_;
};

}  // namespace native
