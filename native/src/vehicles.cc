#include "native/vehicles.h"

#include <algorithm>
#include <cmath>

namespace native {
namespace {

constexpr double kLongestStep = 0.03;
constexpr double kFriction = 1.0;    // of a tyre, as a share of its load
constexpr double kStiffness = 18.0;  // side force of an axle per radian of slip, as a multiple of its load
constexpr double kAir = 0.45;        // drag, newtons per (m/s)^2
constexpr double kRolling = 0.015;
constexpr double kHandBrakeForce = 0.6;
constexpr double kHandBrakeGrip = 0.4;
constexpr double kSlow = 1.0;       // slip is taken as at this speed below it, so that standstill is regular
constexpr double kSteerRate = 6.0;  // radians per second
constexpr double kGears[] = {5.0, 9.5, 14.0, 19.0, 25.0};  // speeds at which the next gear is put in

double sign(double value) { return value > 0 ? 1.0 : value < 0 ? -1.0 : 0.0; }

void to_world(const VehicleTable& t, std::int64_t i, double yaw) {
    const double cos = std::cos(yaw), sin = std::sin(yaw);
    t.at(kVelocityX, i) = t.at(kForward, i) * cos - t.at(kSide, i) * sin;
    t.at(kVelocityY, i) = t.at(kForward, i) * sin + t.at(kSide, i) * cos;
}

// One step: forces at the old slip, the velocities solved for.
void step(const VehicleTable& t, std::int64_t i, double h) {
    const double forward = t.at(kForward, i), side = t.at(kSide, i), rate = t.at(kYawRate, i);
    const double mass = t.at(kMass, i), inertia = t.at(kInertia, i);
    const double a = t.at(kFront, i), b = t.at(kRear, i);
    const double speed = std::abs(forward), weight = mass * kGravity, slow = std::max(speed, kSlow);
    double& angle = t.at(kSteerAngle, i);
    const double wanted = t.at(kSteer, i) * steering_share(speed) * t.at(kMaxSteer, i);
    angle += std::clamp(wanted - angle, -kSteerRate * h, kSteerRate * h);
    const double cos = std::cos(angle), sin = std::sin(angle);
    const bool neutral = t.at(kManual, i) > 0 && t.at(kGear, i) == 0;
    const double throttle = neutral ? 0.0 : t.at(kThrottle, i);
    double drive = std::min(kEngineForce * weight, t.at(kPower, i) / std::max(speed, 1.0)) * throttle;
    if (t.at(kReverse, i) > 0) drive = -drive;
    const bool locked = t.at(kHandBrake, i) > 0;
    const double hold =
        std::clamp(t.at(kBrake, i) * kBrakeForce + (locked ? kHandBrakeForce : 0.0), 0.0, 1.0) * weight;
    const double rolling =
        kRolling * weight + (throttle < 0.01 ? kEngineBrake * mass : 0.0) + kAir * speed * speed;
    // What drive and brakes use of the tyres is missing across; the stiffness is lowered to what they bear.
    const double along = std::clamp(drive - sign(forward) * hold, -weight, weight) / (kFriction * weight);
    const double grip = kFriction * 0.5 * weight * std::sqrt(std::max(0.0, 1.0 - along * along) + 0.01);
    const double slip_front = std::abs((side + a * rate) * cos - forward * sin) / slow;
    const double slip_rear = std::abs(side - b * rate) / slow;
    const double stiffness = kStiffness * 0.5 * weight;
    const double front = std::min(stiffness, grip / std::max(slip_front, 1e-3)) / slow;
    const double rear =
        std::min(stiffness, grip * (locked ? kHandBrakeGrip : 1.0) / std::max(slip_rear, 1e-3)) / slow;
    // Along: drive and the drag of turned wheels, then the brakes, which never turn the motion round.
    const double turned = front * sin;
    double pushed = forward + h * (drive / mass + side * rate + turned * cos * (side + a * rate) / mass);
    pushed /= 1.0 + h * turned * sin / mass;
    pushed = sign(pushed) * std::max(0.0, std::abs(pushed) - h * (hold + rolling) / mass);
    // Across and around: two linear equations.
    const double across = front * cos * cos, coupled = a * across - b * rear;
    const double a11 = mass / h + across + rear, a12 = coupled + mass * pushed;
    const double a22 = inertia / h + a * a * across + b * b * rear;
    const double steered = front * sin * cos * pushed;
    const double b1 = mass * side / h + steered, b2 = inertia * rate / h + a * steered;
    const double determinant = a11 * a22 - a12 * coupled;
    const bool constant = t.at(kIsConstant, i) > 0;
    t.at(kForward, i) = constant ? t.at(kConstantForward, i) : pushed;
    t.at(kSide, i) = constant ? t.at(kConstantSide, i) : (b1 * a22 - a12 * b2) / determinant;
    const double new_rate = (a11 * b2 - coupled * b1) / determinant;
    t.at(kYawRate, i) = new_rate;
    if (t.at(kPhysics, i) <= 0) {
        to_world(t, i, t.at(kYaw, i));
        return;
    }
    to_world(t, i, t.at(kYaw, i) + 0.5 * h * new_rate);
    t.at(kX, i) += h * t.at(kVelocityX, i);
    t.at(kY, i) += h * t.at(kVelocityY, i);
    t.at(kYaw, i) += h * new_rate;
    to_world(t, i, t.at(kYaw, i));
    t.at(kUp, i) -= kGravity * h;
    const double height = t.at(kZ, i) + h * t.at(kUp, i);
    if (height <= t.at(kGround, i)) t.at(kUp, i) = 0.0;
    t.at(kZ, i) = std::max(height, t.at(kGround, i));
}

}  // namespace

double steering_share(double speed) {
    const double kmh = speed * 3.6;
    if (kmh >= kSteeringCurve.back().speed) return kSteeringCurve.back().share;
    std::size_t i = 1;
    while (kmh > kSteeringCurve[i].speed) ++i;
    const CurvePoint& low = kSteeringCurve[i - 1];
    const CurvePoint& high = kSteeringCurve[i];
    return low.share + (kmh - low.speed) / (high.speed - low.speed) * (high.share - low.share);
}

void step_vehicles(const VehicleTable& t, double seconds) {
    const int steps = std::max(1, static_cast<int>(std::ceil(seconds / kLongestStep - 1e-9)));
    for (std::int64_t i = 0; i < t.count; ++i) {
        const double x = t.at(kVelocityX, i), y = t.at(kVelocityY, i), up = t.at(kUp, i);
        for (int k = 0; k < steps; ++k) step(t, i, seconds / steps);
        t.at(kAccelerationX, i) = (t.at(kVelocityX, i) - x) / seconds;
        t.at(kAccelerationY, i) = (t.at(kVelocityY, i) - y) / seconds;
        t.at(kAccelerationZ, i) = (t.at(kUp, i) - up) / seconds;
        if (t.at(kManual, i) > 0) continue;
        const auto* gear =
            std::lower_bound(std::begin(kGears), std::end(kGears), std::abs(t.at(kForward, i)));
        t.at(kGear, i) = t.at(kReverse, i) > 0 ? -1.0 : 1.0 + static_cast<double>(gear - std::begin(kGears));
    }
}

}  // namespace native
