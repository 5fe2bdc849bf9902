"""Where things stand: obstacles, hazards, start and goal of an episode.

Letters: M obstacles, K hazards. Sizes are constants of the arena; a layout only places them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

ROOM_LOW = np.array([-5.0, -5.0, 0.0])
ROOM_HIGH = np.array([5.0, 5.0, 4.0])
BODY_RADIUS = 0.25

PILLAR_SIZES = np.array([[0.45, 0.45, 2.0], [0.6, 0.6, 2.0], [0.45, 0.45, 2.0], [0.5, 0.5, 2.0]])
"""Half extents of the pillars: upright cylinders from floor to ceiling."""

BOX_SIZES = np.array([[0.6, 0.6, 0.8], [0.5, 0.8, 1.1]])
"""Half extents of the boxes, which stand on the floor."""

OBSTACLE_SIZES = np.concatenate([PILLAR_SIZES, BOX_SIZES])  # [M, 3]
NUM_PILLARS = len(PILLAR_SIZES)
HAZARD_RADII = np.array([1.0, 0.9, 0.8])  # [K]

START_CLEARANCE = 0.2
"""Free space around the body at the start and at the goal, m."""
_OBSTACLE_GAP = 1.0
_MAX_LAYOUTS = 10_000
_MAX_POINTS = 10_000
_MAX_PAIRS = 200


@dataclass(frozen=True)
class Layout:
    """Centres of the obstacles and hazards."""

    name: str
    obstacles: Vector  # [M, 3]
    hazards: Vector  # [K, 3]

    def distance_to_obstacles(self, point: Vector) -> float:
        """Distance of `point` [3] to the nearest obstacle surface, m; 0 inside one."""
        offset = np.abs(point - self.obstacles)
        box = offset[NUM_PILLARS:] - BOX_SIZES
        radial = np.hypot(offset[:NUM_PILLARS, 0], offset[:NUM_PILLARS, 1]) - PILLAR_SIZES[:, 0]
        vertical = offset[:NUM_PILLARS, 2] - PILLAR_SIZES[:, 2]
        pillars = np.hypot(np.maximum(radial, 0), np.maximum(vertical, 0))
        return float(min(pillars.min(), np.linalg.norm(np.maximum(box, 0), axis=1).min()))

    def distance_to_hazards(self, point: Vector) -> float:
        """Signed distance of `point` [3] to the nearest hazard, m; negative inside one."""
        return float((np.linalg.norm(point - self.hazards, axis=1) - HAZARD_RADII).min())

    def is_free(self, point: Vector, clearance: float = 0.0) -> bool:
        """Whether the body centred at `point` keeps `clearance` to the room and the obstacles."""
        margin = BODY_RADIUS + clearance
        inside = bool(np.all(point >= ROOM_LOW + margin) and np.all(point <= ROOM_HIGH - margin))
        return inside and self.distance_to_obstacles(point) >= margin


def _obstacle_centres(ground: Vector) -> Vector:
    """Centres [M, 3] of obstacles that stand at `ground` [M, 2]."""
    return np.column_stack([ground, OBSTACLE_SIZES[:, 2]])


FIXED_LAYOUT = Layout(
    name="fixed",
    obstacles=_obstacle_centres(
        np.array([[-2.3, 1.9], [2.1, 1.2], [0.3, -2.6], [-2.6, -2.2], [0.0, 3.1], [3.0, -2.0]])
    ),
    hazards=np.array([[0.0, 0.2, 1.8], [3.2, 3.4, 1.2], [-3.4, -0.2, 2.9]]),
)


def random_layout(rng: np.random.Generator) -> Layout:
    """A layout whose obstacles stand at least 1 m apart and whose centres keep 1 m to the walls."""
    reach = np.linalg.norm(OBSTACLE_SIZES[:, :2], axis=1)
    reach[:NUM_PILLARS] = PILLAR_SIZES[:, 0]
    for _ in range(_MAX_LAYOUTS):
        ground = rng.uniform(-4.0, 4.0, (len(OBSTACLE_SIZES), 2))
        distance = np.linalg.norm(ground[:, None] - ground[None], axis=-1)
        required = reach[:, None] + reach[None] + _OBSTACLE_GAP
        np.fill_diagonal(distance, np.inf)
        if np.all(distance >= required):
            margin = HAZARD_RADII[:, None]
            hazards = rng.uniform(ROOM_LOW + margin, ROOM_HIGH - margin)
            return Layout("random", _obstacle_centres(ground), hazards)
    raise RuntimeError(f"no layout with gaps of {_OBSTACLE_GAP:g} m found in {_MAX_LAYOUTS} draws")


def sample_point(layout: Layout, rng: np.random.Generator) -> Vector:
    """A free point [3] of the room, outside hazards, with `START_CLEARANCE` around the body."""
    margin = BODY_RADIUS + START_CLEARANCE
    for _ in range(_MAX_POINTS):
        point = rng.uniform(ROOM_LOW + margin, ROOM_HIGH - margin)
        if layout.is_free(point, START_CLEARANCE) and layout.distance_to_hazards(point) >= margin:
            return point
    raise RuntimeError(f"no free point found in layout {layout.name!r}")


def sample_start_and_goal(
    layout: Layout,
    min_distance: float,
    rng: np.random.Generator,
    start: Vector | None = None,
    goal: Vector | None = None,
) -> tuple[Vector, Vector]:
    """Start and goal [3] at least `min_distance` apart; a given one is kept.

    Raises:
        ValueError: If both are given too close, or no point is far enough from the given one.
    """
    for _ in range(_MAX_PAIRS):
        first = sample_point(layout, rng) if start is None else start
        last = sample_point(layout, rng) if goal is None else goal
        if np.linalg.norm(last - first) >= min_distance:
            return first, last
    raise ValueError(f"no start and goal {min_distance:g} m apart with start={start} and goal={goal}")
