"""Position and attitude in CARLA's axes."""

from __future__ import annotations

from typing import NamedTuple


class Pose(NamedTuple):
    """Where something is: metres, z up, y to the right of x; degrees, clockwise seen from above."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0
