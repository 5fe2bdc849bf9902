"""The shortest way over the lanes of a map: Dijkstra's algorithm, with a price for changing lanes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from envs.carla.roads import Roads

LANE_CHANGE_METRES = 30.0
"""What a change of lanes costs."""
LANE_CHANGE_LEAST = 25.0
"""Length that a lane must have for one."""


@dataclass(frozen=True)
class Place:
    """A point of a lane."""

    lane: int  # index in Roads.lanes
    step: int  # index of the point in its lane


def shortest_path(roads: Roads, start: int, goal: int) -> list[int] | None:
    """Lanes from `start` to `goal`, both included; None where there is no way.

    Consecutive lanes follow each other, or lie beside each other.
    """
    costs, before = {start: 0.0}, {start: -1}
    heap = [(0.0, start)]
    while heap:
        cost, lane = heapq.heappop(heap)
        if lane == goal:
            path = [lane]
            while before[path[-1]] >= 0:
                path.append(before[path[-1]])
            return path[::-1]
        if cost > costs[lane]:
            continue
        for other, price in _edges(roads, lane):
            total = cost + price
            if total < costs.get(other, float("inf")):
                costs[other], before[other] = total, lane
                heapq.heappush(heap, (total, other))
    return None


def _edges(roads: Roads, lane: int) -> Iterator[tuple[int, float]]:
    """Lanes that may be driven on to next, and at what price."""
    record = roads.lanes[lane]
    for successor in record.successors:
        yield successor, record.length
    if record.length >= LANE_CHANGE_LEAST:
        for beside in (record.left, record.right):
            if beside >= 0:
                yield beside, LANE_CHANGE_METRES
