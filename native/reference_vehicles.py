"""NumPy twin of native.step_vehicles: the oracle of its tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import native

Floats = NDArray[np.float64]

_GRAVITY = 9.81
_LONGEST_STEP = 0.03
_FRICTION = 1.0
_STIFFNESS = 18.0
_AIR = 0.45
_ROLLING = 0.015
_ENGINE_BRAKE = 0.4
_ENGINE_FORCE = 0.55
_BRAKE_FORCE = 0.95
_SLOW = 1.0
_STEER_RATE = 6.0
_GEARS = (5.0, 9.5, 14.0, 19.0, 25.0)


def step_vehicles(table: Floats, count: int, seconds: float) -> None:
    """Move the first `count` vehicles of a table [columns, capacity] on; see native.step_vehicles."""
    c = {name: table[i, :count] for i, name in enumerate(native.vehicle_columns)}
    before = c["velocity_x"].copy(), c["velocity_y"].copy(), c["up"].copy()
    steps = max(1, int(np.ceil(seconds / _LONGEST_STEP - 1e-9)))
    for _ in range(steps):
        _step(c, seconds / steps)
    for old, velocity, axis in zip(before, ("velocity_x", "velocity_y", "up"), "xyz", strict=True):
        c[f"acceleration_{axis}"][:] = (c[velocity] - old) / seconds
    automatic = 1.0 + np.searchsorted(_GEARS, np.abs(c["forward"]))
    c["gear"][:] = np.where(c["manual"] > 0, c["gear"], np.where(c["reverse"] > 0, -1.0, automatic))


def _step(c: dict[str, Floats], h: float) -> None:
    """One step of the bicycle model: forces at the old slip, velocities solved for implicitly."""
    forward, side, rate, mass = c["forward"], c["side"], c["yaw_rate"], c["mass"]
    speed = np.abs(forward)
    weight = mass * _GRAVITY
    share = np.interp(speed * 3.6, *np.array(native.steering_curve).T)
    wanted = c["steer"] * share * c["max_steer"]
    c["steer_angle"] += np.clip(wanted - c["steer_angle"], -_STEER_RATE * h, _STEER_RATE * h)
    cos, sin = np.cos(c["steer_angle"]), np.sin(c["steer_angle"])
    direction = np.where(c["reverse"] > 0, -1.0, 1.0)
    neutral = (c["manual"] > 0) & (c["gear"] == 0)
    throttle = np.where(neutral, 0.0, c["throttle"])
    drive = np.minimum(_ENGINE_FORCE * weight, c["power"] / np.maximum(speed, 1.0)) * throttle * direction
    hold = np.clip(c["brake"] * _BRAKE_FORCE + c["hand_brake"] * 0.6, 0.0, 1.0) * weight
    rolling = _ROLLING * weight + (throttle < 0.01) * _ENGINE_BRAKE * mass + _AIR * speed * speed
    along = np.clip(drive - np.sign(forward) * hold, -weight, weight) / weight
    grip = _FRICTION * 0.5 * weight * np.sqrt(np.maximum(0.0, 1.0 - (along / _FRICTION) ** 2) + 0.01)
    slow = np.maximum(speed, _SLOW)
    # Slip of the wheels as it was; the stiffness is lowered to what the tyre can bear.
    slip_front = np.abs((side + c["front"] * rate) * cos - forward * sin) / slow
    slip_rear = np.abs(side - c["rear"] * rate) / slow
    rear_grip = grip * np.where(c["hand_brake"] > 0, 0.4, 1.0)
    front = np.minimum(_STIFFNESS * 0.5 * weight, grip / np.maximum(slip_front, 1e-3)) / slow
    rear = np.minimum(_STIFFNESS * 0.5 * weight, rear_grip / np.maximum(slip_rear, 1e-3)) / slow
    # Along: drive, the drag of turned wheels, then brakes, which never turn the motion round.
    turned = front * sin
    pushed = forward + h * (drive / mass + side * rate + turned * cos * (side + c["front"] * rate) / mass)
    pushed = pushed / (1.0 + h * turned * sin / mass)
    pushed = np.sign(pushed) * np.maximum(0.0, np.abs(pushed) - h * (hold + rolling) / mass)
    # Across and around: two linear equations.
    front_across = front * cos * cos
    a11 = mass / h + front_across + rear
    a12 = c["front"] * front_across - c["rear"] * rear + mass * pushed
    a21 = c["front"] * front_across - c["rear"] * rear
    a22 = c["inertia"] / h + c["front"] ** 2 * front_across + c["rear"] ** 2 * rear
    steered = front * sin * cos * pushed
    b1 = mass * side / h + steered
    b2 = c["inertia"] * rate / h + c["front"] * steered
    determinant = a11 * a22 - a12 * a21
    new_side = (b1 * a22 - a12 * b2) / determinant
    new_rate = (a11 * b2 - a21 * b1) / determinant
    moves = c["physics"] > 0
    constant = c["is_constant"] > 0
    c["forward"][:] = np.where(constant, c["constant_forward"], pushed)
    c["side"][:] = np.where(constant, c["constant_side"], new_side)
    c["yaw_rate"][:] = new_rate
    middle = c["yaw"] + 0.5 * h * new_rate
    _to_world(c, middle)
    c["x"] += moves * h * c["velocity_x"]
    c["y"] += moves * h * c["velocity_y"]
    c["yaw"] += moves * h * new_rate
    _to_world(c, c["yaw"])
    c["up"] -= _GRAVITY * h * moves
    height = c["z"] + h * c["up"] * moves
    landed = height <= c["ground"]
    c["z"][:] = np.where(landed & (moves > 0), c["ground"], height)
    c["up"][landed] = 0.0


def _to_world(c: dict[str, Floats], yaw: Floats) -> None:
    cos, sin = np.cos(yaw), np.sin(yaw)
    c["velocity_x"][:] = c["forward"] * cos - c["side"] * sin
    c["velocity_y"][:] = c["forward"] * sin + c["side"] * cos
