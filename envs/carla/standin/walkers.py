"""Walkers: they go where carla.WalkerControl says."""

from __future__ import annotations

import math

from envs.carla.standin.actors import Actor
from envs.carla.standin.vehicles import GRAVITY

MASS = 75.0
"""Kilograms."""
_FASTEST = 10.0
_JUMP = 2.5
"""Metres per second upward."""
_KNOCKED_SECONDS = 1.0
"""For how long a walker that was hit slides before it walks again."""


class Walker:
    """The motion of one walker; its origin is in its middle.

    Args:
        actor: What moves.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.direction, self.speed, self.jump = (1.0, 0.0, 0.0), 0.0, False
        self.velocity = (0.0, 0.0, 0.0)
        self._knocked = 0.0
        self._up = 0.0

    def control(self, direction: tuple[float, float, float], speed: float, jump: bool) -> None:
        """Walk at a speed in m/s, at most 10, in a direction until told otherwise."""
        if not math.isfinite(speed):
            raise ValueError(f"the speed of a walker must be finite, not {speed}")
        self.direction, self.speed, self.jump = direction, max(-_FASTEST, min(_FASTEST, speed)), jump

    def push(self, x: float, y: float, velocity_x: float, velocity_y: float) -> None:
        """Be hit: moved by (x, y) metres, sliding on at a velocity."""
        pose = self.actor.pose
        self.actor.pose = pose._replace(x=pose.x + x, y=pose.y + y)
        self.velocity = velocity_x, velocity_y, 0.0
        self._knocked = _KNOCKED_SECONDS

    def step(self, seconds: float, ground: float) -> None:
        """Walk on."""
        pose, half = self.actor.pose, (self.actor.half_size or (0.0, 0.0, 0.0))[2]
        x, y, _ = self.velocity
        yaw = pose.yaw
        if self._knocked > 0:
            self._knocked -= seconds
            x, y = x * max(0.0, 1.0 - 2.0 * seconds), y * max(0.0, 1.0 - 2.0 * seconds)
        else:
            length = math.hypot(self.direction[0], self.direction[1])
            x, y = (self.speed * value / length if length > 1e-6 else 0.0 for value in self.direction[:2])
            if math.hypot(x, y) > 1e-3:
                yaw = math.degrees(math.atan2(y, x))
        stands = pose.z <= ground + half + 1e-3
        self._up = _JUMP if self.jump and stands else self._up - GRAVITY * seconds
        height = pose.z + self._up * seconds
        if height <= ground + half:
            height, self._up = ground + half, 0.0
        self.jump = False
        self.velocity = (x, y, self._up)
        self.actor.pose = pose._replace(x=pose.x + x * seconds, y=pose.y + y * seconds, z=height, yaw=yaw)
