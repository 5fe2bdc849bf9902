"""The motion of all vehicles at once: a dynamic bicycle model with tyres that slide, in arrays of one row a vehicle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.carla.standin.blueprints import VehicleModel
from envs.carla.standin.layouts import Pose

Floats = NDArray[np.float64]

GRAVITY = 9.81
_LONGEST_STEP = 0.03
_FRICTION = 1.0
"""Of a tyre on the road, as a share of its load."""
_STIFFNESS = 18.0
"""Side force of an axle per radian of slip, as a multiple of its load."""
_AIR = 0.45
"""Drag, newtons per (m/s)^2."""
_ROLLING = 0.015
_ENGINE_BRAKE = 0.4
"""Deceleration without throttle, m/s^2."""
_ENGINE_FORCE = 0.55
"""Most drive force as a share of the weight."""
_BRAKE_FORCE = 0.95
_SLOW = 1.0
"""Speed under which slip is taken as at this speed, m/s: keeps the model regular down to standstill."""
_STEER_RATE = 6.0
"""Of the front wheels, radians per second."""
STEERING_CURVE = ((0.0, 1.0), (20.0, 0.9), (60.0, 0.8), (120.0, 0.7))
"""Share of the steering that is left at a speed in km/h, as CARLA's cars have it."""
_GEARS = (5.0, 9.5, 14.0, 19.0, 25.0)
"""Speeds at which the next gear is put in, m/s."""

COLUMNS = (
    *("x", "y", "z", "pitch", "yaw", "roll"),  # metres; radians, clockwise seen from above
    *("forward", "side", "up", "yaw_rate"),  # velocity of the body along and to the right, m/s; rad/s
    *("velocity_x", "velocity_y", "acceleration_x", "acceleration_y", "acceleration_z"),
    *("steer_angle", "throttle", "steer", "brake", "hand_brake", "reverse", "manual", "gear"),
    *("mass", "inertia", "front", "rear", "power", "max_steer", "half_length", "half_width", "half_height"),
    *("ground", "limit", "physics", "constant_forward", "constant_side", "is_constant"),
)


@dataclass(frozen=True)
class Control:
    """What the driver does; steering is positive to the right."""

    throttle: float = 0.0
    steer: float = 0.0
    brake: float = 0.0
    hand_brake: bool = False
    reverse: bool = False
    manual: bool = False
    gear: int = 0


class Vehicles:
    """Rows of vehicles; a row stays with its vehicle until one before it is removed."""

    def __init__(self) -> None:
        self.count = 0
        self._table = np.zeros((len(COLUMNS), 16))
        self._expose()

    def _expose(self) -> None:
        self.columns = {name: self._table[i, : self.count] for i, name in enumerate(COLUMNS)}

    def __getattr__(self, name: str) -> Floats:
        try:
            return self.__dict__["columns"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    def add(self, model: VehicleModel, pose: Pose, ground: float) -> int:
        """A new vehicle at rest; returns its row."""
        row = self.count
        if row == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        self.count += 1
        self._table[:, row] = 0.0
        self._expose()
        length, width, height = model.half_size
        values = {
            "mass": model.mass,
            "inertia": model.mass * ((2 * length) ** 2 + (2 * width) ** 2) / 12,
            "front": model.wheelbase / 2,
            "rear": model.wheelbase / 2,
            "power": model.power,
            "max_steer": np.radians(model.max_steer),
            "half_length": length,
            "half_width": width,
            "half_height": height,
            "physics": 1.0,
        }
        for name, value in values.items():
            self.columns[name][row] = value
        self.place(row, pose, ground)
        return row

    def remove(self, row: int) -> None:
        """The rows after this one move up."""
        self._table[:, row : self.count - 1] = self._table[:, row + 1 : self.count]
        self.count -= 1
        self._expose()

    def place(self, row: int, pose: Pose, ground: float) -> None:
        """Move a vehicle without changing how fast it is in the world."""
        column = self.columns
        column["x"][row], column["y"][row], column["z"][row] = pose[:3]
        column["pitch"][row], column["yaw"][row], column["roll"][row] = np.radians(pose[3:])
        column["ground"][row] = ground
        self.push(row, float(column["velocity_x"][row]), float(column["velocity_y"][row]))

    def push(self, row: int, x: float, y: float) -> None:
        """Set the velocity in the world."""
        column = self.columns
        column["velocity_x"][row], column["velocity_y"][row] = x, y
        cos, sin = np.cos(column["yaw"][row]), np.sin(column["yaw"][row])
        column["forward"][row] = x * cos + y * sin
        column["side"][row] = y * cos - x * sin

    def control(self, row: int, control: Control) -> None:
        """What the driver does from now on; values beyond their range are taken as at its end."""
        column = self.columns
        column["throttle"][row] = np.clip(control.throttle, 0.0, 1.0)
        column["steer"][row] = np.clip(control.steer, -1.0, 1.0)
        column["brake"][row] = np.clip(control.brake, 0.0, 1.0)
        column["hand_brake"][row] = control.hand_brake
        column["reverse"][row] = control.reverse or (control.manual and control.gear < 0)
        column["manual"][row] = control.manual
        column["gear"][row] = control.gear

    def step(self, seconds: float) -> None:
        """Move all vehicles on."""
        if not self.count:
            return
        c = self.columns
        before_x, before_y, before_up = c["velocity_x"].copy(), c["velocity_y"].copy(), c["up"].copy()
        steps = max(1, int(np.ceil(seconds / _LONGEST_STEP - 1e-9)))
        for _ in range(steps):
            self._step(seconds / steps)
        c["acceleration_x"][:] = (c["velocity_x"] - before_x) / seconds
        c["acceleration_y"][:] = (c["velocity_y"] - before_y) / seconds
        c["acceleration_z"][:] = (c["up"] - before_up) / seconds
        automatic = 1.0 + np.searchsorted(_GEARS, np.abs(c["forward"]))
        c["gear"][:] = np.where(c["manual"] > 0, c["gear"], np.where(c["reverse"] > 0, -1.0, automatic))

    def _step(self, h: float) -> None:
        """One step of the bicycle model: forces at the old slip, velocities solved for implicitly."""
        c = self.columns
        forward, side, rate, mass = c["forward"], c["side"], c["yaw_rate"], c["mass"]
        speed = np.abs(forward)
        weight = mass * GRAVITY
        share = np.interp(speed * 3.6, *_CURVE)
        wanted = c["steer"] * share * c["max_steer"]
        c["steer_angle"] += np.clip(wanted - c["steer_angle"], -_STEER_RATE * h, _STEER_RATE * h)
        cos, sin = np.cos(c["steer_angle"]), np.sin(c["steer_angle"])
        direction = np.where(c["reverse"] > 0, -1.0, 1.0)
        drive = np.minimum(_ENGINE_FORCE * weight, c["power"] / np.maximum(speed, 1.0)) * c["throttle"] * direction
        drive = drive * (c["gear"] != 0) if c["manual"].any() else drive
        hold = np.clip(c["brake"] * _BRAKE_FORCE + c["hand_brake"] * 0.6, 0.0, 1.0) * weight
        rolling = _ROLLING * weight + (c["throttle"] < 0.01) * _ENGINE_BRAKE * mass + _AIR * speed * speed
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
        self._to_world(middle)
        c["x"] += moves * h * c["velocity_x"]
        c["y"] += moves * h * c["velocity_y"]
        c["yaw"] += moves * h * new_rate
        self._to_world(c["yaw"])
        c["up"] -= GRAVITY * h * moves
        height = c["z"] + h * c["up"] * moves
        landed = height <= c["ground"]
        c["z"][:] = np.where(landed & (moves > 0), c["ground"], height)
        c["up"][landed] = 0.0

    def _to_world(self, yaw: Floats) -> None:
        c = self.columns
        cos, sin = np.cos(yaw), np.sin(yaw)
        c["velocity_x"][:] = c["forward"] * cos - c["side"] * sin
        c["velocity_y"][:] = c["forward"] * sin + c["side"] * cos


_CURVE = (np.array([v for v, _ in STEERING_CURVE]), np.array([share for _, share in STEERING_CURVE]))
