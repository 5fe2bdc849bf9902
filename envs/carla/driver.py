"""A driver by rule: pure pursuit of a route at a wanted speed, with a gap to the car ahead and stops at red lights.

It drives the cars that are to be followed or overtaken, and is a baseline and a teacher for policies that learn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from envs.carla.actions import Pedals
from envs.carla.route import Route, RoutePoint
from envs.carla.state import SIGHT

if TYPE_CHECKING:
    from envs.carla.episode import Episode

WHEELBASE = 2.9
"""Of the usual car, m."""
_MAX_STEER = math.radians(45.0)
"""Of the front wheels at full steering; CARLA's cars differ, which the loop through the road makes up for."""
_SIDE_ACCELERATION = 2.0
"""In curves, m/s^2."""
_BRAKING = 2.0
"""m/s^2."""
_STOP_GAP = 8.0
"""From the middle of the car ahead, or the stop line, when standing, m."""


def drive(
    route: Route,
    place: RoutePoint,
    position: tuple[float, float, float],
    speed: float,
    wanted: float,
    gap: float = SIGHT,
    stop: float = SIGHT,
) -> Pedals:
    """Pedals and steering for the next step.

    Args:
        route: To be followed.
        place: Where the car is on it.
        position: x, y, m, and direction, rad, of the car.
        speed: Forward, m/s.
        wanted: On a straight road with nobody ahead, m/s.
        gap: To the middle of the car ahead, m.
        stop: To the stop line of a red light, m.
    """
    look = max(4.0, 0.8 * speed)
    x, y, yaw = position
    target_x, target_y = route.point_at(place.along + look)
    dx, dy = target_x - x, target_y - y
    right = dy * math.cos(yaw) - dx * math.sin(yaw)
    square = max(dx * dx + dy * dy, 1.0)
    steer = math.atan(2.0 * right * WHEELBASE / square) / _MAX_STEER
    ahead = range(route.index_at(place.along), route.index_at(place.along + look + 1.5 * speed) + 1, 3)
    bend = max(abs(float(route.curvature[index])) for index in ahead)
    limits = [wanted, math.sqrt(_SIDE_ACCELERATION / max(bend, 1e-3))]
    limits += [math.sqrt(2.0 * _BRAKING * max(room - _STOP_GAP, 0.0)) for room in (gap, stop) if room < SIGHT]
    error = min(limits) - speed
    return Pedals(
        throttle=min(max(0.35 * error + 0.1, 0.0), 0.8) if error > -0.3 and min(limits) > 0.2 else 0.0,
        steer=min(max(steer, -1.0), 1.0),
        brake=min(max(-0.3 * error, 0.0), 1.0) if error < -0.3 or min(limits) <= 0.2 else 0.0,
    )


def expert_action(episode: Episode) -> NDArray[np.float32]:
    """What the driver does in an episode, as an action of the kind "accelerate_steer"."""
    ego = episode.scene.ego
    stop = episode.light.distance if episode.light.redness else SIGHT
    position = ego.x, ego.y, ego.yaw
    wanted = drive(
        episode.route, episode.place, position, ego.forward, episode.config.target_speed, episode.around.gap, stop
    )
    return np.array([wanted.throttle - wanted.brake, wanted.steer], np.float32)
