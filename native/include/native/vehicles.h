// The motion of vehicles: a dynamic bicycle model whose tyres slide, solved implicitly for the velocities.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace native {

// Columns of a table of vehicles, one vehicle an entry of each; see vehicle_columns for what they hold.
enum Column : int {
    kX,
    kY,
    kZ,
    kPitch,
    kYaw,
    kRoll,
    kForward,
    kSide,
    kUp,
    kYawRate,
    kVelocityX,
    kVelocityY,
    kAccelerationX,
    kAccelerationY,
    kAccelerationZ,
    kSteerAngle,
    kThrottle,
    kSteer,
    kBrake,
    kHandBrake,
    kReverse,
    kManual,
    kGear,
    kMass,
    kInertia,
    kFront,
    kRear,
    kPower,
    kMaxSteer,
    kHalfLength,
    kHalfWidth,
    kHalfHeight,
    kGround,
    kLimit,
    kPhysics,
    kConstantForward,
    kConstantSide,
    kIsConstant,
    kColumns
};

// Names of the columns. Metres, radians (clockwise seen from above: z up, y to the right of x) and seconds;
// forward and side are the velocity along and to the right of the body; limit is in km/h.
inline constexpr std::array<std::string_view, kColumns> vehicle_columns{"x",
                                                                        "y",
                                                                        "z",
                                                                        "pitch",
                                                                        "yaw",
                                                                        "roll",
                                                                        "forward",
                                                                        "side",
                                                                        "up",
                                                                        "yaw_rate",
                                                                        "velocity_x",
                                                                        "velocity_y",
                                                                        "acceleration_x",
                                                                        "acceleration_y",
                                                                        "acceleration_z",
                                                                        "steer_angle",
                                                                        "throttle",
                                                                        "steer",
                                                                        "brake",
                                                                        "hand_brake",
                                                                        "reverse",
                                                                        "manual",
                                                                        "gear",
                                                                        "mass",
                                                                        "inertia",
                                                                        "front",
                                                                        "rear",
                                                                        "power",
                                                                        "max_steer",
                                                                        "half_length",
                                                                        "half_width",
                                                                        "half_height",
                                                                        "ground",
                                                                        "limit",
                                                                        "physics",
                                                                        "constant_forward",
                                                                        "constant_side",
                                                                        "is_constant"};

// A table of vehicles that somebody else owns: entry `row` of a column is at data[column * stride + row].
struct VehicleTable {
    double* data;
    std::int64_t stride;
    std::int64_t count;

    double& at(int column, std::int64_t row) const { return data[column * stride + row]; }
};

// Constants of the model that all vehicles share.
inline constexpr double kGravity = 9.81;
inline constexpr double kEngineForce = 0.55;  // most drive force as a share of the weight
inline constexpr double kBrakeForce = 0.95;   // likewise of the brakes
inline constexpr double kEngineBrake = 0.4;   // deceleration without throttle, m/s^2

// Share of the steering that is left at a speed in km/h: linear between these points.
struct CurvePoint {
    double speed;
    double share;
};
inline constexpr std::array<CurvePoint, 4> kSteeringCurve{
    {{0.0, 1.0}, {20.0, 0.9}, {60.0, 0.8}, {120.0, 0.7}}};

// That share at a speed in m/s.
double steering_share(double speed);

// Moves all vehicles on by `seconds` > 0, in steps of at most 0.03 s.
void step_vehicles(const VehicleTable& table, double seconds);

}  // namespace native
