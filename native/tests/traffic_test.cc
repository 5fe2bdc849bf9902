// Checks of vehicles, lanes and traffic that need no Python; run under the sanitizers too.
#include "native/traffic.h"

#include <array>
#include <cmath>
#include <vector>

#include "check.h"

using namespace native;

namespace {

constexpr std::int64_t kRoom = 4;

// A straight lane of 200 m, and one that follows it where `goes_on`.
LaneNetwork straight(bool goes_on) {
    LaneNetwork n;
    const int lanes = goes_on ? 2 : 1;
    for (int lane = 0; lane < lanes; ++lane) {
        for (int i = 0; i <= 200; ++i) {
            n.x.push_back(200.0 * lane + i);
            n.y.push_back(0.0);
            n.yaw.push_back(0.0);
        }
        n.left.push_back(-1);
        n.right.push_back(-1);
        n.junction.push_back(-1);
        n.limit.push_back(12.0);
        n.gate.push_back(-1);
    }
    n.first = goes_on ? std::vector<std::int64_t>{0, 201, 402} : std::vector<std::int64_t>{0, 201};
    n.next_first = goes_on ? std::vector<std::int64_t>{0, 1, 1} : std::vector<std::int64_t>{0, 0};
    if (goes_on) n.next.push_back(1);
    return n;
}

struct Cars {
    std::array<double, kColumns * kRoom> data{};
    VehicleTable table{data.data(), kRoom, 0};

    void add(double x, double y) {
        const std::int64_t row = table.count++;
        const std::array<std::pair<int, double>, 11> values{{{kX, x},
                                                             {kY, y},
                                                             {kMass, 1500},
                                                             {kInertia, 3000},
                                                             {kFront, 1.4},
                                                             {kRear, 1.4},
                                                             {kPower, 1e5},
                                                             {kMaxSteer, 0.78},
                                                             {kHalfLength, 2.3},
                                                             {kHalfWidth, 0.9},
                                                             {kPhysics, 1}}};
        for (const auto& [column, value] : values) table.at(column, row) = value;
        table.at(kHalfHeight, row) = 0.7;
    }
};

void run(Traffic& traffic, Cars& cars, const std::vector<std::int64_t>& rows, int steps,
         const std::vector<Obstacle>& obstacles = {}) {
    for (int i = 0; i < steps; ++i) {
        std::vector<std::int64_t> points;
        for (std::int64_t row = 0; row < cars.table.count; ++row)
            points.push_back(traffic.grid().nearest(cars.table.at(kX, row), cars.table.at(kY, row),
                                                    cars.table.at(kYaw, row), true));
        traffic.step(cars.table, rows.data(), points.data(), obstacles, {}, 0.05);
        step_vehicles(cars.table, 0.05);
    }
}

void test_a_driver_keeps_lane_and_speed() {
    Traffic traffic(straight(true));
    Cars cars;
    cars.add(10, 1.0);
    traffic.add(1, 5);
    run(traffic, cars, {0}, 300);
    expect(std::abs(cars.table.at(kY, 0)) < 0.2, "it returns to the middle of the lane");
    expect(cars.table.at(kForward, 0) > 8.0 && cars.table.at(kForward, 0) < 13.0, "it keeps the limit");
}

void test_a_driver_stops_for_what_is_ahead() {
    Traffic traffic(straight(true));
    Cars cars;
    cars.add(10, 0);
    cars.add(90, 0);
    traffic.add(1, 5);
    run(traffic, cars, {0}, 500);
    expect(cars.table.at(kForward, 0) < 0.1, "it stands behind a standing car");
    const double gap = cars.table.at(kX, 1) - cars.table.at(kX, 0) - 4.6;
    expect(gap > 0.5 && gap < 6.0, "with a gap");
    Cars alone;
    alone.add(10, 0);
    Traffic second(straight(true));
    second.add(1, 5);
    run(second, alone, {0}, 500, {{60, 0, 0, 0, 0.3}});
    expect(alone.table.at(kX, 0) < 58 && alone.table.at(kForward, 0) < 0.1, "and for an obstacle");
}

void test_a_driver_stops_where_the_road_ends() {
    Traffic traffic(straight(false));
    Cars cars;
    cars.add(100, 0);
    traffic.add(1, 5);
    run(traffic, cars, {0}, 500);
    expect(cars.table.at(kX, 0) < 200 && cars.table.at(kForward, 0) < 0.1, "the end of the road");
}

void test_drivers_come_and_go() {
    Traffic traffic(straight(true));
    traffic.add(4, 1);
    expect(traffic.size() == 1 && traffic.remove(4) && !traffic.remove(4), "once");
    Cars cars;
    cars.add(0, 500);
    traffic.add(4, 1);
    run(traffic, cars, {0}, 2);
    expect(cars.table.at(kBrake, 0) == 1.0, "off every road it brakes");
}

void test_bad_networks() {
    const auto broken = [](auto change) {
        LaneNetwork n = straight(true);
        change(n);
        return raises([&] { Traffic traffic(n); });
    };
    expect(broken([](auto& n) { n.next[0] = 5; }), "a successor that is not there");
    expect(broken([](auto& n) { n.first[1] = 500; }), "points beyond the end");
    expect(broken([](auto& n) { n.x[3] = NAN; }), "a point that is not finite");
    expect(broken([](auto& n) { n.limit.pop_back(); }), "a limit that is missing");
}

void test_nearest() {
    const LaneNetwork network = straight(true);
    const LaneGrid grid(network);
    expect(grid.nearest(33.2, 1.0, 0, false) == 33, "the nearest point");
    expect(grid.nearest(33.2, 100.0, 0, false) == -1, "none within reach");
    expect(grid.nearest(NAN, 0, 0, false) == -1, "nowhere");
}

}  // namespace

int main() {
    test_a_driver_keeps_lane_and_speed();
    test_a_driver_stops_for_what_is_ahead();
    test_a_driver_stops_where_the_road_ends();
    test_drivers_come_and_go();
    test_bad_networks();
    test_nearest();
    return failures;
}
