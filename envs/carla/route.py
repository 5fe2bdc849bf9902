"""A route as a line in the plane, and where a car is along it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.carla.lane_graph import Place
from envs.carla.roads import Roads

Floats = NDArray[np.float64]

SPACING = 1.0
"""Distance of the points of a route, m."""
_CHANGE_METRES = 20.0
"""Way over which a change of lanes is spread."""
_SEARCH_AHEAD = 12
_SEARCH_BEHIND = 3


@dataclass(frozen=True)
class RoutePoint:
    """Where a car is, seen from its route."""

    along: float  # m from the beginning
    lateral: float  # m, positive to the right of it
    heading: float  # rad, of the car to the route, positive to the right


class Route:
    """Points a metre apart, with direction, curvature, limit and width of the lane at each.

    Args:
        points: [P, 2] metres, in order, not all alike; resampled.
        limit: [P] speed limits, m/s.
        width: [P] widths of the lanes, m.
        height: [P] of the road, m.
    """

    def __init__(self, points: Floats, limit: Floats, width: Floats, height: Floats) -> None:
        gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        keep = np.concatenate([[True], gaps > 1e-3])
        points, limit, width, height = points[keep], limit[keep], width[keep], height[keep]
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        self.length = float(along[-1])
        count = max(2, round(self.length / SPACING) + 1)
        at = np.linspace(0.0, self.length, count)
        self.spacing = self.length / (count - 1)
        self.points = np.stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)], axis=1)
        steps = np.diff(self.points, axis=0)
        directions = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        self.yaw = np.concatenate([directions[:1], 0.5 * (directions[1:] + directions[:-1]), directions[-1:]])
        self.curvature = np.gradient(_smoothed(self.yaw), self.spacing)
        self.limit = np.interp(at, along, limit)
        self.width = np.interp(at, along, width)
        self.height = np.interp(at, along, height)
        self._xs, self._ys = self.points[:, 0].tolist(), self.points[:, 1].tolist()
        self._index = 0

    def restart(self, along: float = 0.0) -> None:
        """Look for the car there the next time, m from the beginning."""
        self._index = self.index_at(along)

    def locate(self, x: float, y: float, yaw: float) -> RoutePoint:
        """Where a car is; it is looked for near where it was the last time.

        Args:
            x: Position, m.
            y: Position, m.
            yaw: Direction of the car, rad.
        """
        xs, ys = self._xs, self._ys
        last = len(xs) - 2
        best, found = math.inf, (0.0, 0.0, 0)
        for index in range(max(0, self._index - _SEARCH_BEHIND), min(last, self._index + _SEARCH_AHEAD) + 1):
            ux, uy = xs[index + 1] - xs[index], ys[index + 1] - ys[index]
            px, py = x - xs[index], y - ys[index]
            square = ux * ux + uy * uy
            share = (px * ux + py * uy) / square
            inside = min(max(share, 0.0), 1.0)
            gap = (px - inside * ux) ** 2 + (py - inside * uy) ** 2
            if gap < best:
                cross = (ux * py - uy * px) / math.sqrt(square)
                lateral = math.copysign(math.sqrt(gap), cross)
                best, found = gap, (index + inside, lateral, index)
        position, lateral, self._index = found
        heading = math.remainder(yaw - self.yaw_at(position * self.spacing), math.tau)
        return RoutePoint(position * self.spacing, lateral, heading)

    def index_at(self, along: float) -> int:
        """Index of the point there."""
        return min(max(int(along / self.spacing + 0.5), 0), len(self._xs) - 1)

    def yaw_at(self, along: float) -> float:
        """Direction, rad."""
        return float(self.yaw[self.index_at(along)])

    def height_at(self, along: float) -> float:
        """Of the road, m."""
        return float(self.height[self.index_at(along)])

    def point_at(self, along: float) -> tuple[float, float]:
        """Position, m, between the points; the end beyond it."""
        position = min(max(along / self.spacing, 0.0), len(self._xs) - 1.0)
        index = min(int(position), len(self._xs) - 2)
        share = position - index
        x, y = self._xs, self._ys
        return x[index] + share * (x[index + 1] - x[index]), y[index] + share * (y[index + 1] - y[index])


def _smoothed(yaw: Floats) -> Floats:
    """Mean over five points, the ends held."""
    padded = np.pad(yaw, 2, mode="edge")
    return np.asarray(np.convolve(padded, np.full(5, 0.2), mode="valid"))


def route_along(roads: Roads, lanes: Sequence[int], start: int, metres: float | None = None) -> Route:
    """The route over lanes that follow each other or lie beside each other.

    Args:
        roads: Of the map.
        lanes: Indices; repeating a lane drives round it again.
        start: Index of the first point in the first lane.
        metres: Where the route ends; None for the end of the last lane.
    """
    parts: list[Floats] = []  # x, y and height
    limits: list[Floats] = []
    widths: list[Floats] = []
    first = start
    for number, lane in enumerate(lanes):
        record = roads.lanes[lane]
        last = len(record.points)
        following = lanes[number + 1] if number + 1 < len(lanes) else None
        beside = following in (record.left, record.right) and following not in record.successors
        entered = first
        if beside:
            # Leave in the middle of what is left of the lane, and join the other one so much farther on.
            assert following is not None
            target = roads.lanes[following]
            leave = 0.5 * (float(record.distance[first]) + record.length) - 0.5 * _CHANGE_METRES
            leave = max(leave, float(record.distance[first]))
            last = max(int(np.searchsorted(record.distance, leave)), first) + 1
            x, y = record.points[last - 1, :2]
            nearest = int(np.argmin(np.hypot(target.points[:, 0] - x, target.points[:, 1] - y)))
            join = float(target.distance[nearest]) + _CHANGE_METRES
            first = min(int(np.searchsorted(target.distance, join)), len(target.points) - 1)
        else:
            first = 0
        piece = slice(entered, last)
        parts.append(record.points[piece])
        limits.append(np.full(len(record.points[piece]), record.limit))
        widths.append(record.width[piece])
    points = np.concatenate(parts)
    route = Route(points[:, :2], np.concatenate(limits), np.concatenate(widths), points[:, 2])
    if metres is not None and route.length > metres:
        count = bisect_right(np.arange(len(route.points)) * route.spacing, metres)
        count = max(count, 2)
        route = Route(route.points[:count], route.limit[:count], route.width[:count], route.height[:count])
    return route


def place_on(roads: Roads, lane: int, along: float) -> Place:
    """The point of a lane so many metres from its beginning."""
    distance = roads.lanes[lane].distance
    return Place(lane, min(int(np.searchsorted(distance, along)), len(distance) - 1))
