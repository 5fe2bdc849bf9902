"""All vehicles at once, in arrays of one entry a vehicle; native.step_vehicles moves them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import native
from envs.carla.pose import Pose
from envs.carla.standin.blueprints import VehicleModel

Floats = NDArray[np.float64]

GRAVITY = 9.81
"""Metres per second squared."""


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
        self.table = np.zeros((len(native.vehicle_columns), 16))
        """Columns as in native.vehicle_columns, with room for more vehicles."""
        self._expose()

    def _expose(self) -> None:
        self.columns = {name: self.table[i, : self.count] for i, name in enumerate(native.vehicle_columns)}

    def __getattr__(self, name: str) -> Floats:
        try:
            return self.__dict__["columns"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    def add(self, model: VehicleModel, pose: Pose, ground: float) -> int:
        """A new vehicle at rest; returns its row."""
        row = self.count
        if row == self.table.shape[1]:
            self.table = np.concatenate([self.table, np.zeros_like(self.table)], axis=1)
        self.count += 1
        self.table[:, row] = 0.0
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
        self.table[:, row : self.count - 1] = self.table[:, row + 1 : self.count]
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
        """Move all vehicles on by so many seconds."""
        native.step_vehicles(self.table, self.count, seconds)
