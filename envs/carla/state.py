"""The observation `state`: 34 numbers in SI units, in the axes of the car, positive to the right.

0 speed forward, m/s; 1 speed to the right, m/s; 2 and 3 acceleration forward and to the right, m/s^2; 4 yaw rate,
rad/s; 5 steering that is applied, 6 throttle, 7 brake; 8 distance from the middle of the route, m; 9 angle to the
route, rad; 10 curvature of the route here, 11 at 10 m, 12 at 20 m, 13 at 30 m ahead, 1/m; 14 to 21 points of the route
at 5, 10, 20 and 30 m ahead, each forward and right, m; 22 speed limit, m/s; 23 light ahead: 0 none or green, 0.5
yellow, 1 red; 24 way to its stop line, m, at most 50; 25 way to the end of the route, m, at most 100; 26 to 29 the
vehicle ahead on the route, 30 to 33 the nearest other one within 50 m: forward and right, m, and velocity relative to
the car forward and right, m/s; (50, 0, 0, 0) where there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.carla.actions import Pedals
from envs.carla.route import Route, RoutePoint
from envs.carla.scene import Ego, Floats

STATE_FIELDS = (
    *("speed_forward", "speed_right", "acceleration_forward", "acceleration_right", "yaw_rate"),
    *("steer", "throttle", "brake", "lateral", "heading"),
    *("curvature_0", "curvature_10", "curvature_20", "curvature_30"),
    *(f"route_{ahead}_{axis}" for ahead in (5, 10, 20, 30) for axis in ("forward", "right")),
    *("speed_limit", "light", "stop_line", "to_go"),
    *(f"{which}_{field}" for which in ("leader", "nearest") for field in ("forward", "right", "speed", "drift")),
)
"""Names of the fields, in order."""
STATE_SIZE = 34
assert len(STATE_FIELDS) == STATE_SIZE

SIGHT = 50.0
"""How far vehicles and stop lines are seen, m."""
_LEADER_HALF_WIDTH = 2.0
"""How far from the middle of the route a vehicle is taken to be on it, m."""
_TO_GO = 100.0
_NOBODY = (SIGHT, 0.0, 0.0, 0.0)
_CURVATURE_AHEAD = (0.0, 10.0, 20.0, 30.0)
_POINTS_AHEAD = (5.0, 10.0, 20.0, 30.0)


@dataclass(frozen=True)
class LightAhead:
    """The traffic light that counts for the car."""

    redness: float  # 0 none or green, 0.5 yellow, 1 red
    distance: float  # of its stop line, m

    @property
    def is_red(self) -> bool:
        return self.redness == 1.0


NO_LIGHT = LightAhead(0.0, SIGHT)


@dataclass(frozen=True)
class Neighbours:
    """Vehicles that count: row of the leader on the route and of the nearest other one, -1 for none."""

    leader: int
    nearest: int
    gap: float  # to the leader's middle along the route, m; SIGHT without one


def neighbours(relative: Floats, route: Route, place: RoutePoint) -> Neighbours:
    """The vehicle ahead on the route, and the nearest of the others.

    Args:
        relative: [V, 5] see `envs.carla.scene.Scene.relative`.
        route: The car's.
        place: Where the car is on it.
    """
    if not len(relative):
        return Neighbours(-1, -1, SIGHT)
    distance = np.hypot(relative[:, 0], relative[:, 1])
    near = np.nonzero(distance < SIGHT)[0]
    if not len(near):
        return Neighbours(-1, -1, SIGHT)
    ahead = route_in_view(route, place, SIGHT)
    gaps = np.hypot(relative[near, None, 0] - ahead[None, :, 0], relative[near, None, 1] - ahead[None, :, 1])
    closest = gaps.argmin(axis=1)
    on_route = (gaps.min(axis=1) < _LEADER_HALF_WIDTH) & (closest > 0)
    leader, gap = -1, SIGHT
    if on_route.any():
        best = int(np.where(on_route, closest, len(ahead)).argmin())
        leader, gap = int(near[best]), float(closest[best]) * route.spacing
    others = near[near != leader]
    nearest = int(others[distance[others].argmin()]) if len(others) else -1
    return Neighbours(leader, nearest, gap)


def route_in_view(route: Route, place: RoutePoint, metres: float) -> Floats:
    """[P, 2] points of the route from the car on, forward and right of it, a metre apart."""
    first = route.index_at(place.along)
    points = route.points[first : first + int(metres / route.spacing) + 1]
    # The car stands at `lateral` to the right of the route and is turned by `heading` against it.
    yaw = float(route.yaw[first])
    x, y = route.point_at(place.along)
    x, y = x - math.sin(yaw) * place.lateral, y + math.cos(yaw) * place.lateral
    car = yaw + place.heading
    cos, sin = math.cos(car), math.sin(car)
    gap = points - (x, y)
    return np.stack([gap[:, 0] * cos + gap[:, 1] * sin, gap[:, 1] * cos - gap[:, 0] * sin], axis=1)


def state_vector(
    ego: Ego,
    pedals: Pedals,
    route: Route,
    place: RoutePoint,
    light: LightAhead,
    relative: Floats,
    around: Neighbours,
) -> NDArray[np.float32]:
    """The 34 numbers.

    Args:
        ego: The car.
        pedals: What its driver does.
        route: Its route.
        place: Where it is on that.
        light: The light that counts.
        relative: [V, 5] see `envs.carla.scene.Scene.relative`.
        around: Which of them count.
    """
    cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
    points: list[float] = []
    for ahead in _POINTS_AHEAD:
        x, y = route.point_at(place.along + ahead)
        dx, dy = x - ego.x, y - ego.y
        points += (dx * cos + dy * sin, dy * cos - dx * sin)
    here = route.index_at(place.along)
    vehicles: list[float] = []
    for row in (around.leader, around.nearest):
        vehicles += relative[row, (0, 1, 3, 4)].tolist() if row >= 0 else _NOBODY
    return np.array(
        [
            *(ego.forward, ego.side, ego.acceleration_forward, ego.acceleration_side, ego.yaw_rate),
            *(pedals.steer, pedals.throttle, pedals.brake, place.lateral, place.heading),
            *(float(route.curvature[route.index_at(place.along + ahead)]) for ahead in _CURVATURE_AHEAD),
            *points,
            *(float(route.limit[here]), light.redness, light.distance, min(route.length - place.along, _TO_GO)),
            *vehicles,
        ],
        np.float32,
    )
