"""Routes of the tasks, drawn at random on any map: what a task asks for is looked for among its lanes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from envs.carla.lane_graph import shortest_path
from envs.carla.roads import Lane, Roads
from envs.carla.route import Route, place_on, route_along
from envs.carla.tasks import RouteKind

_TRIES = 60
_LEAST_METRES = 20.0
"""Routes are not shorter."""
_TURN = (math.radians(50.0), math.radians(130.0))
_BEFORE = 30.0
"""Way before a turn, a roundabout's entry is twice as far, m."""
_RING_METRES = 260.0
"""Longest way round a roundabout."""
_CROSSING_LANES = 6
"""Lanes through a junction from which on it is a crossing."""


@dataclass(frozen=True)
class Draw:
    """Lanes to be driven over, in order, from a point of the first one."""

    lanes: tuple[int, ...]
    start: float  # m along the first lane
    metres: float | None  # where the route ends, None for the end of the last lane


class RouteChooser:
    """Draws routes of one kind.

    Args:
        roads: Of the map.
        kind: What is asked for.
        metres: Length, about.

    Raises:
        ValueError: The map has nothing of the kind.
    """

    def __init__(self, roads: Roads, kind: RouteKind, metres: float) -> None:
        self.roads, self.kind, self.metres = roads, kind, metres
        self._lanes = roads.lanes
        self._before: list[list[int]] = [[] for _ in self._lanes]
        for index, lane in enumerate(self._lanes):
            for successor in lane.successors:
                self._before[successor].append(index)
        self._open = [index for index, lane in enumerate(self._lanes) if lane.junction < 0]
        draws: dict[RouteKind, Callable[[np.random.Generator], Draw | None]] = {
            "lane": self._walk_draw,
            "straight": self._walk_draw,
            "right": self._turn_draw,
            "left": self._turn_draw,
            "roundabout": self._through_draw,
            "merge": self._merge_draw,
            "lights": self._through_draw,
            "navigation": self._navigation_draw,
        }
        self._draw = draws[kind]
        self._starts = self._candidates()
        if not self._starts:
            raise ValueError(f"map {roads.name} has nothing for a route of the kind {kind!r}")

    def draw(self, rng: np.random.Generator) -> Route:
        """A route.

        Raises:
            ValueError: None is found.
        """
        for _ in range(_TRIES):
            found = self._draw(rng)
            if found is None:
                continue
            start = place_on(self.roads, found.lanes[0], found.start)
            if start.step >= len(self._lanes[start.lane].points) - 1:
                continue
            route = route_along(self.roads, found.lanes, start.step, found.metres)
            if route.length >= min(_LEAST_METRES, self.metres):
                return route
        raise ValueError(f"map {self.roads.name} gives no route of the kind {self.kind!r} in {_TRIES} tries")

    def _candidates(self) -> list[int]:
        """Lanes from which a draw begins, or which it is to lead through."""
        lanes = self._lanes
        if self.kind in ("right", "left"):
            sign = 1.0 if self.kind == "right" else -1.0
            low, high = _TURN
            crossings = self._crossings()
            return [
                index
                for index, lane in enumerate(lanes)
                if lane.junction in crossings and low <= sign * _turn(lane) <= high and self._before[index]
            ]
        if self.kind == "lights":
            crossings = self._crossings()
            return [i for i, lane in enumerate(lanes) if lane.junction in crossings and self._before[i]]
        if self.kind == "roundabout":
            return [index for index in range(len(lanes)) if self._is_ring(index)]
        if self.kind == "merge":
            ends = [i for i, lane in enumerate(lanes) if not lane.successors and max(lane.left, lane.right) >= 0]
            return [index for index in ends if self._before[index]]
        if self.kind == "straight":
            several = [index for index in self._open if max(lanes[index].left, lanes[index].right) >= 0]
            return [index for index in several if lanes[index].successors] or self._open
        return [index for index in self._open if lanes[index].successors] or self._open

    def _crossings(self) -> set[int]:
        numbers = [lane.junction for lane in self._lanes if lane.junction >= 0]
        return {number for number in set(numbers) if numbers.count(number) >= _CROSSING_LANES}

    def _is_ring(self, index: int) -> bool:
        """Whether a lane is part of a small round."""
        first = self._lanes[index]
        stack = [(index, first.length, _turn(first))]
        while stack:
            lane, length, turn = stack.pop()
            for successor in self._lanes[lane].successors:
                if successor == index and abs(abs(turn) - math.tau) < 0.7:
                    return True
                more = self._lanes[successor]
                if successor != index and length + more.length <= _RING_METRES:
                    stack.append((successor, length + more.length, turn + _turn(more)))
        return False

    def _walk(self, rng: np.random.Generator, lane: int, start: float, metres: float) -> Draw:
        """On and on, by chance at forks, until the route is long enough or the road ends."""
        path, left = [lane], metres - (self._lanes[lane].length - start)
        while left > 0:
            record = self._lanes[path[-1]]
            options: Sequence[int] = record.successors
            if not options:
                options = [beside for beside in (record.left, record.right) if beside >= 0 and beside not in path]
            if not options:
                break
            path.append(int(rng.choice(np.array(options))))
            left -= self._lanes[path[-1]].length
        return Draw(tuple(path), start, metres)

    def _walk_draw(self, rng: np.random.Generator) -> Draw | None:
        lane = self._pick(rng, self._starts, by_length=True)
        start = float(rng.uniform(5.0, max(6.0, self._lanes[lane].length - 15.0)))
        return self._walk(rng, lane, start, self.metres)

    def _turn_draw(self, rng: np.random.Generator) -> Draw | None:
        turn = self._pick(rng, self._starts)
        before = self._pick(rng, self._before[turn])
        start = max(1.0, self._lanes[before].length - _BEFORE)
        after = self._lanes[turn].successors
        if not after:
            return None
        way = self._lanes[before].length - start + self._lanes[turn].length
        metres = max(self.metres, way + _LEAST_METRES)
        rest = self._walk(rng, self._pick(rng, after), 0.0, metres - way)
        return Draw((before, turn, *rest.lanes), start, metres)

    def _through_draw(self, rng: np.random.Generator) -> Draw | None:
        """From a lane outside, through one of the candidates, and on."""
        middle = self._pick(rng, self._starts)
        entry, way = [middle], 0.0
        while way < 2 * _BEFORE:
            options = [lane for lane in self._before[entry[0]] if lane not in entry]
            if self.kind == "roundabout":  # leave the round backwards where it can be left
                options = [lane for lane in options if lane not in self._starts] or options
            if not options:
                break
            entry.insert(0, self._pick(rng, options))
            way += self._lanes[entry[0]].length
        first = self._lanes[entry[0]]
        if first.junction >= 0 or entry[0] in self._starts:
            return None
        start = max(1.0, min(way - 2 * _BEFORE, first.length - 10.0))
        metres = max(self.metres, way - start + self._lanes[middle].length + _LEAST_METRES)
        options = [lane for lane in self._lanes[middle].successors if lane not in entry]
        if not options:
            return None
        rest = self._walk(rng, self._pick(rng, options), 0.0, metres)
        return Draw((*entry, *rest.lanes), start, metres)

    def _merge_draw(self, rng: np.random.Generator) -> Draw | None:
        """Along a lane that ends, from before its beginning, and over to the one beside it."""
        ending = self._pick(rng, self._starts)
        before = self._pick(rng, self._before[ending])
        record = self._lanes[ending]
        beside = record.left if record.left >= 0 else record.right
        start = max(1.0, self._lanes[before].length - 2 * _BEFORE)
        way = self._lanes[before].length - start + record.length
        metres = max(self.metres, way + _BEFORE)
        rest = self._walk(rng, beside, 0.0, 2 * metres)
        return Draw((before, ending, *rest.lanes), start, metres)

    def _navigation_draw(self, rng: np.random.Generator) -> Draw | None:
        start_lane, goal = (self._pick(rng, self._open, by_length=True) for _ in range(2))
        path = shortest_path(self.roads, start_lane, goal)
        if path is None or len(path) < 2:
            return None
        start = 0.5 * self._lanes[start_lane].length
        length = sum(self._lanes[lane].length for lane in path) - start
        if not 0.5 * self.metres <= length <= 2.0 * self.metres:
            return None
        return Draw(tuple(path), start, length)

    def _pick(self, rng: np.random.Generator, lanes: Sequence[int], by_length: bool = False) -> int:
        if not by_length:
            return int(lanes[int(rng.integers(len(lanes)))])
        lengths = np.array([self._lanes[lane].length for lane in lanes])
        return int(rng.choice(np.array(lanes), p=lengths / lengths.sum()))


def _turn(lane: Lane) -> float:
    """Change of direction along a lane, rad, positive to the right."""
    return float(lane.yaw[-1] - lane.yaw[0])
