#include "native/traffic.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace native {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kAcceleration = 2.0, kBraking = 3.0, kHardest = 8.0;  // m/s^2
constexpr double kHeadway = 1.2, kStandstill = 2.5;                    // seconds, metres
constexpr double kSideways = 2.5;                                      // m/s^2 in a bend
constexpr double kLost = 4.0;           // metres from its path at which a driver looks for another lane
constexpr double kStopShort = 1.0;      // metres before the line
constexpr double kChangeSeconds = 6.0;  // between changes of the lane
constexpr double kPatienceSeconds = 8.0;

double turn(double angle) { return std::remainder(angle, 2 * M_PI); }

}  // namespace

Traffic::Traffic(LaneNetwork network)
    : network_((check_network(network), std::move(network))), grid_(network_) {
    for (const double yaw : network_.yaw) {
        cos_.push_back(std::cos(yaw));
        sin_.push_back(std::sin(yaw));
    }
    held_.assign(static_cast<std::size_t>(network_.lanes()), 0);
    occupied_.assign(held_.size(), 0);
    find_conflicts();
}

void Traffic::find_conflicts() {
    const auto& n = network_;
    conflicts_.resize(static_cast<std::size_t>(n.lanes()));
    std::vector<std::vector<std::int64_t>> origins(conflicts_.size());
    for (std::int64_t lane = 0; lane < n.lanes(); ++lane)
        for (std::int64_t k = n.next_first[lane]; k < n.next_first[lane + 1]; ++k)
            origins[n.next[k]].push_back(lane);
    for (std::int64_t one = 0; one < n.lanes(); ++one) {
        if (n.junction[one] < 0) continue;
        for (std::int64_t two = 0; two < n.lanes(); ++two) {
            if (two == one || n.junction[two] != n.junction[one] || origins[one] == origins[two]) continue;
            bool close = false;
            for (std::int64_t i = n.first[one]; i < n.first[one + 1] && !close; ++i)
                for (std::int64_t j = n.first[two]; j < n.first[two + 1] && !close; ++j)
                    close = std::hypot(n.x[i] - n.x[j], n.y[i] - n.y[j]) < kConflict;
            if (close) conflicts_[one].push_back(two);
        }
    }
}

void Traffic::add(std::int64_t number, std::uint64_t seed) {
    Driver driver{};
    driver.number = number;
    driver.random = seed;
    driver.eagerness = 0.85 + 0.2 * draw(driver);
    drivers_.push_back(std::move(driver));
}

bool Traffic::remove(std::int64_t number) {
    const auto found = std::find_if(drivers_.begin(), drivers_.end(),
                                    [&](const Driver& driver) { return driver.number == number; });
    if (found == drivers_.end()) return false;
    release(*found);
    drivers_.erase(found);
    return true;
}

// SplitMix64 of Steele, Lea and Flood (2014); a number in [0, 1).
double Traffic::draw(Driver& driver) const {
    std::uint64_t z = driver.random += 0x9E3779B97F4A7C15ULL;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ z >> 27) * 0x94D049BB133111EBULL;
    return static_cast<double>((z ^ z >> 31) >> 11) * 0x1.0p-53;
}

void Traffic::release(Driver& driver) {
    for (const Hold& hold : driver.holds) --held_[hold.lane];
    driver.holds.clear();
}

bool Traffic::holds(const Driver& driver, std::int64_t lane) const {
    return std::any_of(driver.holds.begin(), driver.holds.end(),
                       [&](const Hold& hold) { return hold.lane == lane; });
}

// Finds where on its path the driver is; a lost one begins on the nearest lane.
void Traffic::locate(Driver& driver, const VehicleTable& table, std::int64_t row) {
    const auto& n = network_;
    const double x = table.at(kX, row), y = table.at(kY, row);
    const auto square = [&](std::int64_t point) {
        const double dx = n.x[point] - x, dy = n.y[point] - y;
        return dx * dx + dy * dy;
    };
    while (!driver.path.empty()) {
        const std::int64_t lane = driver.path.front(), first = n.first[lane], last = n.first[lane + 1] - 1;
        while (first + driver.at < last && square(first + driver.at + 1) <= square(first + driver.at))
            ++driver.at;
        while (driver.at > 0 && square(first + driver.at - 1) < square(first + driver.at)) --driver.at;
        if (first + driver.at < last || driver.path.size() < 2 ||
            square(n.first[driver.path[1]]) > square(last))
            break;
        for (Hold& hold : driver.holds)
            if (hold.lane == lane) hold.until = driver.odometer + 2 * table.at(kHalfLength, row) + 1.0;
        driver.path.erase(driver.path.begin());
        driver.at = 0;
    }
    if (!driver.path.empty() && square(n.first[driver.path.front()] + driver.at) < kLost * kLost) return;
    release(driver);
    driver.path.clear();
    driver.at = 0;
    const std::int64_t point = grid_.nearest(x, y, table.at(kYaw, row), true);
    if (point < 0) return;
    const auto after = std::upper_bound(n.first.begin(), n.first.end(), point);
    driver.path.push_back(after - n.first.begin() - 1);
    driver.at = point - n.first[driver.path.front()];
}

// Extends the path by successors drawn at random and writes it out up to the horizon.
void Traffic::look(Driver& driver, double x, double y, double horizon) {
    const auto& n = network_;
    Ahead& a = ahead_;
    for (auto* values : {&a.x, &a.y, &a.cos, &a.sin, &a.yaw, &a.s}) values->clear();
    a.lane.clear();
    double s = 0;
    for (std::size_t i = 0; s < horizon; ++i) {
        if (i == driver.path.size()) {
            const std::int64_t last = driver.path.back();
            const std::int64_t ways = n.next_first[last + 1] - n.next_first[last];
            if (ways == 0) return;
            const auto way = static_cast<std::int64_t>(draw(driver) * static_cast<double>(ways));
            driver.path.push_back(n.next[n.next_first[last] + std::min(way, ways - 1)]);
        }
        const std::int64_t lane = driver.path[i];
        const std::int64_t begin = n.first[lane] + (i == 0 ? driver.at : 0);
        for (std::int64_t k = begin; k < n.first[lane + 1] && s < horizon; ++k) {
            if (!a.x.empty()) s += std::hypot(n.x[k] - a.x.back(), n.y[k] - a.y.back());
            const double cos = cos_[k], sin = sin_[k];
            if (a.x.empty()) s = (n.x[k] - x) * cos + (n.y[k] - y) * sin;
            a.x.push_back(n.x[k]);
            a.y.push_back(n.y[k]);
            a.cos.push_back(cos);
            a.sin.push_back(sin);
            a.yaw.push_back(n.yaw[k]);
            a.s.push_back(s);
            a.lane.push_back(lane);
        }
    }
}

// The first thing on the path ahead of the bumper.
Traffic::Gap Traffic::gap(const VehicleTable& t, std::int64_t row,
                          const std::vector<Obstacle>& obstacles) const {
    const Ahead& a = ahead_;
    Gap found{kInfinity, 0.0};
    if (a.s.empty()) return found;
    const double x = t.at(kX, row), y = t.at(kY, row), reach = a.s.back() + 10.0;
    const double half_length = t.at(kHalfLength, row), half_width = t.at(kHalfWidth, row);
    const double low = t.at(kZ, row), high = low + 2 * t.at(kHalfHeight, row);
    const auto consider = [&](double ox, double oy, double cos, double sin, double length, double width,
                              double vx, double vy) {
        const double dx = ox - x, dy = oy - y;
        if (dx * dx + dy * dy > reach * reach) return;
        // The path has steps of length, so what is far away can be skipped at once.
        const double near = std::hypot(length, width) + half_width + 0.75;
        double skipped_to = -kInfinity;
        for (std::size_t m = 0; m < a.s.size(); ++m) {
            if (a.s[m] < skipped_to) continue;
            const double px = ox - a.x[m], py = oy - a.y[m];
            const double square = px * px + py * py;
            if (square > near * near) {
                skipped_to = a.s[m] + std::sqrt(square) - near;
                continue;
            }
            const double along = px * a.cos[m] + py * a.sin[m], across = py * a.cos[m] - px * a.sin[m];
            const double same = std::abs(cos * a.cos[m] + sin * a.sin[m]);
            const double cross = std::abs(sin * a.cos[m] - cos * a.sin[m]);
            const double far = length * same + width * cross, wide = length * cross + width * same;
            if (std::abs(along) > far + 0.5 || std::abs(across) > half_width + wide + 0.25) continue;
            if (a.s[m] + along <= 0) return;  // beside or behind
            const double distance = a.s[m] + along - far - half_length;
            if (distance < found.distance) found = {distance, std::max(0.0, vx * a.cos[m] + vy * a.sin[m])};
            return;
        }
    };
    for (std::int64_t j = 0; j < t.count; ++j) {
        if (j == row || t.at(kZ, j) > high || t.at(kZ, j) + 2 * t.at(kHalfHeight, j) < low) continue;
        consider(t.at(kX, j), t.at(kY, j), std::cos(t.at(kYaw, j)), std::sin(t.at(kYaw, j)),
                 t.at(kHalfLength, j), t.at(kHalfWidth, j), t.at(kVelocityX, j), t.at(kVelocityY, j));
    }
    for (const Obstacle& o : obstacles)
        consider(o.x, o.y, 1.0, 0.0, o.radius, o.radius, o.velocity_x, o.velocity_y);
    return found;
}

bool Traffic::may_enter(const Driver& driver, std::int64_t lane) const {
    return std::none_of(conflicts_[lane].begin(), conflicts_[lane].end(), [&](std::int64_t other) {
        return occupied_[other] != 0 || held_[other] > (holds(driver, other) ? 1 : 0);
    });
}

// Free metres before the line of the first junction lane ahead that must not be entered yet.
double Traffic::stop_distance(Driver& driver, double speed, double half_length, const Gap& gap,
                              const std::vector<std::uint8_t>& is_green) {
    const Ahead& a = ahead_;
    for (std::size_t m = 1; m < a.s.size(); ++m) {
        const std::int64_t lane = a.lane[m];
        if (lane == a.lane[m - 1] || network_.junction[lane] < 0) continue;
        const double line = a.s[m] - half_length - kStopShort;
        const double needed = speed * speed / (2 * kBraking);
        const std::int64_t gate = network_.gate[lane];
        const bool green = gate < 0 || is_green[static_cast<std::size_t>(gate)] != 0;
        const bool held = holds(driver, lane);
        if (held) {
            const bool waited = driver.patience > kPatienceSeconds;
            if (!waited && (green || needed > line)) continue;
            std::erase_if(driver.holds, [&](const Hold& hold) { return hold.lane == lane; });
            --held_[lane];
            driver.patience = 0;
            return line;
        }
        if (line > needed + 8.0) return kInfinity;  // too far to claim it
        const double end = a.s[m] + static_cast<double>(network_.first[lane + 1] - network_.first[lane]);
        const double bumper = gap.distance + half_length;
        const bool behind = bumper < a.s[m];
        const bool full = gap.speed < 1.0 && bumper < end + 2 * half_length + kStandstill;
        if (!green || behind || full || !may_enter(driver, lane)) return line;
        driver.holds.push_back({lane, kInfinity});
        ++held_[lane];
    }
    return kInfinity;
}

bool Traffic::is_free(const VehicleTable& t, std::int64_t row, std::int64_t lane) const {
    const auto& n = network_;
    const double x = t.at(kX, row), y = t.at(kY, row), speed = t.at(kForward, row);
    const std::int64_t point = grid_.nearest(x, y, t.at(kYaw, row), true);
    if (point < 0) return false;
    const double cos = std::cos(n.yaw[point]), sin = std::sin(n.yaw[point]);
    double aside = kInfinity;  // of the target lane
    for (std::int64_t k = n.first[lane]; k < n.first[lane + 1]; ++k) {
        const double dx = n.x[k] - x, dy = n.y[k] - y;
        if (std::abs(dx * cos + dy * sin) < 1.0) aside = dy * cos - dx * sin;
    }
    if (aside == kInfinity) return false;
    for (std::int64_t j = 0; j < t.count; ++j) {
        if (j == row) continue;
        const double dx = t.at(kX, j) - x, dy = t.at(kY, j) - y;
        const double along = dx * cos + dy * sin, across = dy * cos - dx * sin;
        const double length = t.at(kHalfLength, row) + t.at(kHalfLength, j);
        const double faster = t.at(kForward, j) - speed;
        if (std::abs(across - aside) < 2.2 && along > -(length + 3.0 + 3.0 * std::max(0.0, faster)) &&
            along < length + 4.0 + 2.0 * std::max(0.0, -faster))
            return false;
    }
    return true;
}

// Goes over to a lane beside where the own one ends soon or somebody slow is ahead.
void Traffic::change_lane(Driver& driver, const VehicleTable& table, std::int64_t row, const Gap& gap,
                          double wanted) {
    const auto& n = network_;
    const std::int64_t lane = driver.path.front();
    if (n.junction[lane] >= 0 || driver.rested < kChangeSeconds) return;
    const auto left_over = static_cast<double>(n.first[lane + 1] - n.first[lane] - driver.at);
    const bool ends = n.next_first[lane + 1] == n.next_first[lane];
    const bool slow = gap.distance < 30.0 && gap.speed < wanted - 2.0 && gap.speed > 0.5 && left_over > 40.0;
    if (!ends && !slow) return;
    for (const std::int64_t beside : {n.left[lane], n.right[lane]}) {
        if (beside < 0 || (n.next_first[beside + 1] == n.next_first[beside] && left_over < 100.0)) continue;
        if (!is_free(table, row, beside)) continue;
        const double x = table.at(kX, row), y = table.at(kY, row);
        std::int64_t best = n.first[beside];
        for (std::int64_t k = best; k < n.first[beside + 1]; ++k)
            if (std::hypot(n.x[k] - x, n.y[k] - y) < std::hypot(n.x[best] - x, n.y[best] - y)) best = k;
        std::erase_if(driver.holds, [&](const Hold& hold) {
            if (hold.until != kInfinity) return false;
            --held_[hold.lane];
            return true;
        });
        driver.path.assign(1, beside);
        driver.at = best - n.first[beside];
        driver.rested = 0;
        return;
    }
}

void Traffic::drive(Driver& driver, const VehicleTable& t, std::int64_t row,
                    const std::vector<Obstacle>& obstacles, const std::vector<std::uint8_t>& is_green,
                    double seconds) {
    const double speed = std::max(0.0, t.at(kForward, row)), half_length = t.at(kHalfLength, row);
    driver.odometer += speed * seconds;
    driver.rested += seconds;
    std::erase_if(driver.holds, [&](const Hold& hold) {
        if (hold.until > driver.odometer) return false;
        --held_[hold.lane];
        return true;
    });
    t.at(kReverse, row) = t.at(kHandBrake, row) = t.at(kManual, row) = 0.0;
    locate(driver, t, row);
    if (driver.path.empty()) {  // off every road
        t.at(kThrottle, row) = t.at(kSteer, row) = 0.0;
        t.at(kBrake, row) = 1.0;
        return;
    }
    const double horizon = std::min(20.0 + 2.0 * speed + speed * speed / kBraking, 120.0);
    look(driver, t.at(kX, row), t.at(kY, row), horizon);
    const Ahead& a = ahead_;
    const double wanted = network_.limit[driver.path.front()] * driver.eagerness;
    Gap leader = gap(t, row, obstacles);
    change_lane(driver, t, row, leader, wanted);
    if (driver.rested == 0) {
        look(driver, t.at(kX, row), t.at(kY, row), horizon);
        leader = gap(t, row, obstacles);
    }
    const double line = stop_distance(driver, speed, half_length, leader, is_green);
    const bool waits = speed < 0.3 && !driver.holds.empty() && driver.holds.back().until == kInfinity &&
                       network_.junction[driver.path.front()] < 0;
    driver.patience = waits ? driver.patience + seconds : 0.0;
    // Bends ahead and lower limits, each reached with comfortable braking.
    double allowed = wanted;
    for (std::size_t m = 0; m < a.s.size(); ++m) {
        const std::int64_t lane = a.lane[m];
        const bool other = m > 0 && lane != a.lane[m - 1];
        double most = other || m == 0 ? network_.limit[lane] * driver.eagerness : kInfinity;
        const double yaw_change = m + 2 < a.s.size() ? std::abs(turn(a.yaw[m + 2] - a.yaw[m])) : 0.0;
        const double length = m + 2 < a.s.size() ? a.s[m + 2] - a.s[m] : 1.0;
        if (yaw_change > 1e-3 && length > 0.1)
            most = std::min(most, std::sqrt(kSideways * length / yaw_change));
        if (most < allowed) {
            const double distance = std::max(0.0, a.s[m]);
            allowed = std::min(allowed, std::sqrt(most * most + 2 * 0.7 * kBraking * distance));
        }
    }
    double dead_end = kInfinity;
    if (a.s.back() < horizon) dead_end = a.s.back() - half_length - kStopShort;
    if (std::min(line, dead_end) < leader.distance) leader = {std::min(line, dead_end), 0.0};
    const double share = speed / std::max(allowed, 0.5);
    double acceleration = kAcceleration * (1.0 - share * share * share * share);
    if (leader.distance < kInfinity) {
        const double approach = speed - leader.speed;
        const double desired =
            (leader.distance == line || leader.distance == dead_end ? 0.5 : kStandstill) +
            std::max(0.0, speed * kHeadway + speed * approach / (2 * std::sqrt(kAcceleration * kBraking)));
        const double ratio = desired / std::max(leader.distance, 0.1);
        acceleration -= kAcceleration * ratio * ratio;
    }
    acceleration = std::clamp(acceleration, -kHardest, kAcceleration);
    const double force =
        std::min(kEngineForce * kGravity, t.at(kPower, row) / t.at(kMass, row) / std::max(speed, 1.0));
    const double push = acceleration + 0.15 + 0.0003 * speed * speed;
    const bool brakes = acceleration < -kEngineBrake || (speed < 0.2 && acceleration < 0.05);
    t.at(kThrottle, row) = brakes || push <= 0 ? 0.0 : std::clamp(push / force, 0.0, 1.0);
    t.at(kBrake, row) =
        brakes ? std::clamp(std::max(-acceleration, 0.5) / (kBrakeForce * kGravity), 0.0, 1.0) : 0.0;
    // Pure pursuit of a point on the path, from the rear axle.
    const double lookahead = std::clamp(3.0 + 0.55 * speed, 4.0, 16.0);
    std::size_t target = 0;
    while (target + 1 < a.s.size() && a.s[target] < lookahead) ++target;
    const double yaw = t.at(kYaw, row), cos = std::cos(yaw), sin = std::sin(yaw), rear = t.at(kRear, row);
    const double dx = a.x[target] - (t.at(kX, row) - rear * cos);
    const double dy = a.y[target] - (t.at(kY, row) - rear * sin);
    const double along = dx * cos + dy * sin, across = dy * cos - dx * sin;
    const double base = t.at(kFront, row) + rear;
    const double angle = std::atan2(2 * base * across, std::max(along * along + across * across, 1.0));
    t.at(kSteer, row) = std::clamp(angle / (t.at(kMaxSteer, row) * steering_share(speed)), -1.0, 1.0);
}

void Traffic::step(const VehicleTable& table, const std::int64_t* rows, const std::int64_t* points,
                   const std::vector<Obstacle>& obstacles, const std::vector<std::uint8_t>& is_green,
                   double seconds) {
    const auto lights = static_cast<std::int64_t>(is_green.size());
    for (const std::int64_t gate : network_.gate)
        if (gate >= lights)
            throw std::invalid_argument("is_green must name all lights: there is a light " +
                                        std::to_string(gate) + ", and " + std::to_string(lights) +
                                        " are given");
    for (std::size_t i = 0; i < drivers_.size(); ++i)
        if (rows[i] < 0 || rows[i] >= table.count)
            throw std::invalid_argument("rows must lie in [0, " + std::to_string(table.count) + "), not " +
                                        std::to_string(rows[i]));
    std::fill(occupied_.begin(), occupied_.end(), 0);
    std::vector<std::uint8_t> driven(static_cast<std::size_t>(table.count), 0);
    for (std::size_t i = 0; i < drivers_.size(); ++i) driven[rows[i]] = 1;
    for (std::int64_t row = 0; row < table.count; ++row) {
        if (driven[row] != 0 || points[row] < 0 || points[row] >= network_.points()) continue;
        const auto after = std::upper_bound(network_.first.begin(), network_.first.end(), points[row]);
        occupied_[after - network_.first.begin() - 1] = 1;
    }
    for (std::size_t i = 0; i < drivers_.size(); ++i)
        drive(drivers_[i], table, rows[i], obstacles, is_green, seconds);
}

}  // namespace native
