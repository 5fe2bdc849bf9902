"""Actions, and the pedals and steering they stand for. Steering is positive to the right, as in CARLA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from envs.specs import ArraySpec

ActionKind = Literal["accelerate_steer", "steer_throttle_brake", "discrete"]

ACCELERATIONS = (-2.0, 0.0, 2.0)
"""Of the discrete actions, m/s^2."""
STEERS = (-0.6, -0.2, 0.0, 0.2, 0.6)
_FULL = 3.0
"""Acceleration that stands for a full pedal, m/s^2."""


@dataclass(frozen=True)
class Pedals:
    """What the driver does, see `carla.VehicleControl`."""

    throttle: float = 0.0  # [0, 1]
    steer: float = 0.0  # [-1, 1], positive to the right
    brake: float = 0.0  # [0, 1]


DISCRETE = tuple(
    Pedals(max(acceleration, 0.0) / _FULL, steer, max(-acceleration, 0.0) / _FULL)
    for acceleration in ACCELERATIONS
    for steer in STEERS
)
"""The 15 discrete actions: brake, roll and accelerate, each with five steering angles from left to right."""


def action_spec(kind: ActionKind) -> ArraySpec:
    """The spec of the actions of a kind."""
    if kind == "discrete":
        return ArraySpec((), "int64", 0, len(DISCRETE) - 1, len(DISCRETE))
    if kind == "accelerate_steer":
        return ArraySpec((2,), "float32", -1.0, 1.0)
    return ArraySpec((3,), "float32", (-1.0, 0.0, 0.0), 1.0)


def pedals(kind: ActionKind, action: NDArray[Any] | int) -> Pedals:
    """What an action stands for.

    Args:
        kind: "accelerate_steer": [accelerate (+) or brake (-), steer]; "steer_throttle_brake": [steer, throttle,
            brake]; "discrete": an id.
        action: It.

    Raises:
        ValueError: It is none.
    """
    if kind == "discrete":
        number = int(action)
        if not 0 <= number < len(DISCRETE):
            raise ValueError(f"action must be an id in [0, {len(DISCRETE) - 1}], got {number}")
        return DISCRETE[number]
    values = np.asarray(action, np.float64)
    size = 2 if kind == "accelerate_steer" else 3
    if values.shape != (size,) or not np.isfinite(values).all():
        raise ValueError(f"action must be {size} finite numbers, got {values.tolist()!r}")
    if kind == "accelerate_steer":
        accelerate, steer = np.clip(values, -1.0, 1.0).tolist()
        return Pedals(max(accelerate, 0.0), steer, max(-accelerate, 0.0))
    steer, throttle, brake = np.clip(values, (-1.0, 0.0, 0.0), 1.0).tolist()
    return Pedals(throttle, steer, brake)
