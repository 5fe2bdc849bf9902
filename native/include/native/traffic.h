// Rule-based drivers that keep their lanes, their gaps and the traffic lights.
#pragma once

#include <cstdint>
#include <vector>

#include "native/lanes.h"
#include "native/vehicles.h"

namespace native {

// Something in the way that is no vehicle of the table: a walker or a thing on the road.
struct Obstacle {
    double x, y, velocity_x, velocity_y, radius;
};

// Drives vehicles of a table along the lanes of a network. The same calls give the same controls.
//
// A driver follows a lane by pure pursuit and keeps its gap by the intelligent driver model (Treiber,
// Hennecke and Helbing, 2000). Inside junctions the lanes that come within kConflict of each other are in
// conflict: a driver enters one only while no other driver holds, and no other vehicle stands on, a lane in
// conflict with it; where there is a traffic light, only while that is green. It changes lanes where its own
// ends and where somebody slow is ahead.
class Traffic {
  public:
    // Throws std::invalid_argument where the network is inconsistent.
    explicit Traffic(LaneNetwork network);

    const LaneNetwork& network() const { return network_; }
    const LaneGrid& grid() const { return grid_; }

    // A new driver; `seed` decides where it turns and how fast it likes to go.
    void add(std::int64_t number, std::uint64_t seed);
    // Whether there was such a driver.
    bool remove(std::int64_t number);
    std::int64_t size() const { return static_cast<std::int64_t>(drivers_.size()); }

    // Sets throttle, steer and brake of the drivers' vehicles for the coming `seconds`.
    //   rows     of the drivers' vehicles, in the order of their coming
    //   points   [table.count] nearest lane point of each vehicle, -1 for none
    //   is_green of each traffic light
    void step(const VehicleTable& table, const std::int64_t* rows, const std::int64_t* points,
              const std::vector<Obstacle>& obstacles, const std::vector<std::uint8_t>& is_green,
              double seconds);

    static constexpr double kConflict = 2.6;  // metres

  private:
    struct Hold {
        std::int64_t lane;
        double until;  // odometer at which it ends; infinite while the lane lies ahead
    };
    struct Driver {
        std::int64_t number;
        std::uint64_t random;
        double eagerness;  // share of the limit
        std::vector<std::int64_t> path;
        std::int64_t at = 0;  // point on path[0], counted from its first
        std::vector<Hold> holds;
        double odometer = 0, rested = 0, patience = 0;
    };
    struct Ahead {  // the path from the vehicle on
        std::vector<double> x, y, cos, sin, yaw, s;
        std::vector<std::int64_t> lane;
    };
    struct Gap {
        double distance, speed;  // free metres before the bumper, speed of what is there
    };

    double draw(Driver& driver) const;
    void locate(Driver& driver, const VehicleTable& table, std::int64_t row);
    void look(Driver& driver, double x, double y, double horizon);
    Gap gap(const VehicleTable& table, std::int64_t row, const std::vector<Obstacle>& obstacles) const;
    bool may_enter(const Driver& driver, std::int64_t lane) const;
    bool holds(const Driver& driver, std::int64_t lane) const;
    void release(Driver& driver);
    double stop_distance(Driver& driver, double speed, double half_length, const Gap& gap,
                         const std::vector<std::uint8_t>& is_green);
    bool is_free(const VehicleTable& table, std::int64_t row, std::int64_t lane) const;
    void change_lane(Driver& driver, const VehicleTable& table, std::int64_t row, const Gap& gap,
                     double wanted);
    void drive(Driver& driver, const VehicleTable& table, std::int64_t row,
               const std::vector<Obstacle>& obstacles, const std::vector<std::uint8_t>& is_green,
               double seconds);
    void find_conflicts();

    LaneNetwork network_;
    LaneGrid grid_;
    std::vector<double> cos_, sin_;  // per point, of its direction
    std::vector<std::vector<std::int64_t>> conflicts_;
    std::vector<Driver> drivers_;
    std::vector<int> held_;               // per lane: drivers that hold it
    std::vector<std::uint8_t> occupied_;  // per lane: whether a vehicle without a driver of ours stands on it
    Ahead ahead_;
};

}  // namespace native
