"""Traffic lights: where their stop lines are, which of them a route passes, and what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import carla
import numpy as np

from envs.carla.canvas import StopLine
from envs.carla.route import Route
from envs.carla.state import NO_LIGHT, SIGHT, LightAhead

_ON_ROUTE = 1.5
"""How far from the route the middle of a stop line may be, m."""
_SAME_WAY = math.radians(45.0)
_REDNESS = {carla.TrafficLightState.Red: 1.0, carla.TrafficLightState.Yellow: 0.5}
_DARK = (carla.TrafficLightState.Off, carla.TrafficLightState.Unknown)


@dataclass(frozen=True)
class Stop:
    """A stop line and its light."""

    light: Any  # carla.TrafficLight
    line: StopLine
    yaw: float  # of the lane, rad

    @property
    def middle(self) -> tuple[float, float]:
        """m."""
        return 0.5 * (self.line.start[0] + self.line.end[0]), 0.5 * (self.line.start[1] + self.line.end[1])


def find_stops(world: Any) -> list[Stop]:
    """All stop lines of a `carla.World` that lights guard."""
    return [
        _stop(light, waypoint)
        for light in world.get_actors().filter("traffic.traffic_light*")
        for waypoint in light.get_stop_waypoints()
    ]


def _stop(light: Any, waypoint: Any) -> Stop:
    place, yaw = waypoint.transform.location, math.radians(waypoint.transform.rotation.yaw)
    dx, dy = -0.5 * waypoint.lane_width * math.sin(yaw), 0.5 * waypoint.lane_width * math.cos(yaw)
    return Stop(light, StopLine((place.x - dx, place.y - dy), (place.x + dx, place.y + dy)), yaw)


class RouteLights:
    """The stop lines along a route.

    Args:
        stops: Of the map.
        route: Of the episode.
        front: From the middle of the car to its front, m.
    """

    def __init__(self, stops: Sequence[Stop], route: Route, front: float) -> None:
        self._front = front
        self._ahead: list[tuple[float, Any]] = []
        for stop in stops:
            x, y = stop.middle
            gaps = np.hypot(route.points[:, 0] - x, route.points[:, 1] - y)
            index = int(gaps.argmin())
            if gaps[index] < _ON_ROUTE and abs(math.remainder(stop.yaw - route.yaw[index], math.tau)) < _SAME_WAY:
                self._ahead.append((index * route.spacing, stop.light))
        self._ahead.sort(key=lambda pair: pair[0])
        self._along = 0.0

    def begin(self, along: float) -> None:
        """The car is there, m along the route."""
        self._along = along

    def ahead(self, along: float) -> LightAhead:
        """The next light, as it shows now."""
        for place, light in self._ahead:
            distance = place - along - self._front
            if distance > 0.0:
                if distance > SIGHT:
                    break
                return LightAhead(_REDNESS.get(light.state, 0.0), distance)
        return NO_LIGHT

    def passed_red(self, along: float) -> bool:
        """Whether the front of the car, now there, has passed a red light since the last call."""
        before, self._along = self._along + self._front, max(self._along, along)
        now = along + self._front
        return any(before <= place < now and light.state == carla.TrafficLightState.Red for place, light in self._ahead)


def show(stops: Sequence[Stop]) -> list[bool | None]:
    """Of each stop line whether its light is green, None for a dark one."""
    states = {stop.light.id: stop.light.state for stop in stops}
    return [
        None if states[stop.light.id] in _DARK else states[stop.light.id] == carla.TrafficLightState.Green
        for stop in stops
    ]
