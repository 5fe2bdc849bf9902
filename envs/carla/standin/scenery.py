"""What the sensors that cast rays see: the painted ground, buildings, posts and the actors as boxes."""

from __future__ import annotations

import math
import zlib
from typing import Any

import carla
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import native
from envs.carla.pose import Pose
from envs.carla.roads import Floats
from envs.carla.standin.actors import PROP, WALKER
from envs.carla.standin.geometry import axes
from envs.carla.standin.layouts import GREEN, RED, YELLOW
from envs.carla.standin.towns import Town
from envs.carla.standin.world import World

ROAD, SIDEWALK, BUILDING, POLE, LIGHT_HEAD, TERRAIN, LINE = 1, 2, 3, 6, 7, 10, 24
"""Semantic tags of CARLA 0.9.16."""

_MOST_CELLS = 16e6
_FINEST = 0.1
_MARGIN = 12.0
_HEIGHT_CELL = 2.0
_COLORS = {ROAD: (84, 86, 90), SIDEWALK: (148, 140, 134), TERRAIN: (96, 126, 74), LINE: (232, 232, 226)}
_SIGNALS = {RED: (220, 30, 30), YELLOW: (235, 200, 40), GREEN: (40, 210, 80)}
_DASH, _PERIOD = 3.0, 9.0

Row = tuple[tuple[float, ...], tuple[int, int], tuple[int, int, int]]
"""A box: centre, half sizes and axes; object and tag; color."""


class Scenery:
    """The scene of one town, with the actors of one world.

    Args:
        town: The town.
        threads: Of the kernel.
    """

    def __init__(self, town: Town, threads: int = 1) -> None:
        self._town = town
        points = town.roads.point
        low, high = points[:, :2].min(axis=0) - _MARGIN, points[:, :2].max(axis=0) + _MARGIN
        self._cell = max(_FINEST, math.sqrt(float(np.prod(high - low)) / _MOST_CELLS))
        self._low = low
        self._size = np.ceil((high - low) / self._cell).astype(int)
        classes = self._paint()
        heights = np.zeros((0, 0), np.float32) if town.is_flat else self._heights(high)
        palette = np.zeros((32, 3), np.uint8)
        palette[list(_COLORS)] = list(_COLORS.values())
        self.scene = native.RayScene(
            classes, np.array(low), self._cell, TERRAIN, heights, _HEIGHT_CELL, palette, threads
        )
        self._fixed = self._buildings(classes) + self._posts()
        self._seen: tuple[Any, ...] = ()

    def refresh(self, world: World) -> None:
        """Put the boxes where the actors are now."""
        now = (world.frame, world.version)
        if now == self._seen:
            return
        self._seen = now
        rows = self._fixed + self._heads(world) + _vehicles(world)
        for actor in world.actors.values():
            if actor.kind in (WALKER, PROP) and actor.half_size is not None:
                lift = 0.0 if actor.kind == WALKER else actor.half_size[2]
                rows.append(_box(world.pose(actor), lift, actor.half_size, (actor.number, actor.tag), actor.color))
        self.scene.set_boxes(
            np.array([row[0] for row in rows], np.float64).reshape(-1, 15),
            np.array([row[1] for row in rows], np.uint32).reshape(-1, 2),
            np.array([row[2] for row in rows], np.uint8).reshape(-1, 3),
        )

    def _paint(self) -> NDArray[np.uint8]:
        """Classes [columns, rows] of the ground: lanes by their type, then their marks."""
        image = Image.new("L", (int(self._size[1]), int(self._size[0])), TERRAIN)
        draw = ImageDraw.Draw(image)
        lanes = _all_lanes(self._town.roads.map)
        for tag in (SIDEWALK, ROAD):
            for points in lanes:
                is_sidewalk = points[0].lane_type == carla.LaneType.Sidewalk
                if is_sidewalk == (tag == SIDEWALK):
                    self._strip(draw, *_edges(points), tag)
        for points in lanes:
            if points[0].lane_type == carla.LaneType.Driving and not points[0].is_junction:
                left, right = _edges(points)
                self._mark(draw, left, [point.left_lane_marking for point in points])
                self._mark(draw, right, [point.right_lane_marking for point in points])
        return np.ascontiguousarray(np.asarray(image))

    def _pixels(self, places: Floats) -> list[tuple[float, float]]:
        """Image coordinates (row of the world's y, column of its x) of places [N, 2]."""
        scaled = (places - self._low) / self._cell
        return [(y, x) for x, y in scaled.tolist()]

    def _strip(self, draw: ImageDraw.ImageDraw, left: Floats, right: Floats, tag: int) -> None:
        draw.polygon(self._pixels(np.concatenate([left, right[::-1]])), fill=tag)

    def _mark(self, draw: ImageDraw.ImageDraw, edge: Floats, marks: list[Any]) -> None:
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(edge, axis=0), axis=1))])
        kinds = [str(mark.type) for mark in marks]
        width = max(1, round(0.16 / self._cell))
        painted = [
            kind not in ("NONE", "Other") and not (kind.startswith("Broken") and place % _PERIOD > _DASH)
            for kind, place in zip(kinds, along.tolist(), strict=True)
        ]
        pixels, first = self._pixels(edge), 0
        for i in range(len(edge)):
            if not painted[i] or i + 1 == len(edge):
                if i > first:
                    draw.line(pixels[first : i + 1], fill=LINE, width=width)
                first = i + 1

    def _heights(self, high: Floats) -> NDArray[np.float32]:
        """Heights of the ground at the corners of coarse cells: those of the nearest lane."""
        roads = self._town.roads
        count = np.ceil((high - self._low) / _HEIGHT_CELL).astype(int) + 1
        heights = np.zeros(tuple(count), np.float32)
        known = np.zeros(tuple(count), bool)
        cells = np.round((roads.point[:, :2] - self._low) / _HEIGHT_CELL).astype(int)
        for i in range(-2, 3):
            for j in range(-2, 3):
                heights[cells[:, 0] + i, cells[:, 1] + j] = roads.point[:, 2]
                known[cells[:, 0] + i, cells[:, 1] + j] = True
        heights[~known] = float(np.median(roads.point[:, 2]))
        return heights

    def _buildings(self, classes: NDArray[np.uint8]) -> list[Row]:
        """Buildings beside the roads, the same ones for a town every time."""
        rng = np.random.default_rng(zlib.crc32(self._town.name.encode()))
        rows: list[Row] = []
        span = self._size * self._cell
        for x in np.arange(8.0, span[0], 26.0):
            for y in np.arange(8.0, span[1], 26.0):
                length, width, height = rng.uniform((4.0, 4.0, 3.0), (8.0, 8.0, 9.0))
                shade = int(rng.integers(90, 190))
                around = classes[self._range(x, length + 5.0, 0), self._range(y, width + 5.0, 1)]
                near = classes[self._range(x, 32.0, 0), self._range(y, 32.0, 1)]
                if (around == TERRAIN).all() and (near == ROAD).any():
                    pose = Pose(float(self._low[0] + x), float(self._low[1] + y))
                    color = (shade, int(shade * 0.92), int(shade * 0.84))
                    rows.append(_box(pose, height, (length, width, height), (0, BUILDING), color))
        return rows

    def _range(self, middle: float, reach: float, axis: int) -> slice:
        low, high = (round((middle + sign * reach) / self._cell) for sign in (-1, 1))
        return slice(max(low, 0), min(high, int(self._size[axis])))

    def _posts(self) -> list[Row]:
        post, half = (60, 62, 64), (0.08, 0.08, 2.6)
        return [_box(light.pose, half[2], half, (0, POLE), post) for light in self._town.lights.lights]

    def _heads(self, world: World) -> list[Row]:
        rows = []
        for actor, state in zip(world.light_actors, world.lights.state.tolist(), strict=True):
            color = _SIGNALS.get(state, (70, 70, 70))
            rows.append(_box(actor.pose, 4.6, (0.2, 0.2, 0.5), (actor.number, LIGHT_HEAD), color))
        return rows


def _vehicles(world: World) -> list[Row]:
    """Two boxes a vehicle: body and cabin."""
    rows = []
    for actor in world.vehicle_actors:
        length, width, height = actor.half_size or (0.0, 0.0, 0.0)
        pose, label = world.pose(actor), (actor.number, actor.tag)
        rows.append(_box(pose, 0.65 * height, (length, width, 0.5 * height), label, actor.color))
        glass = (30, 34, 40)
        rows.append(_box(pose, 1.55 * height, (0.55 * length, 0.88 * width, 0.45 * height), label, glass))
    return rows


def _box(pose: Pose, lift: float, half: tuple[float, ...], label: tuple[int, int], color: tuple[int, int, int]) -> Row:
    turned = axes(pose).T
    centre = np.array(pose[:3]) + lift * turned[2]
    return (*centre.tolist(), *half, *turned.ravel().tolist()), label, color


def _all_lanes(town_map: Any) -> list[list[Any]]:
    """Waypoints of every lane that is drawn, drivable or beside one that is, in the order of the road."""
    groups: dict[tuple[int, int, int], dict[float, Any]] = {}
    for point in town_map.generate_waypoints(1.0):
        for step in ("get_left_lane", "get_right_lane"):
            lane = point
            while lane is not None:
                known = groups.setdefault((lane.road_id, lane.section_id, lane.lane_id), {})
                if lane.s in known and lane is not point:
                    break
                known[lane.s] = lane
                after = getattr(lane, step)()
                same_side = after is not None and after.lane_id * lane.lane_id > 0
                lane = after if same_side else None
    lanes = []
    for key, points in groups.items():
        if len(points) < 2:
            continue
        ordered = [points[s] for s in sorted(points)]
        last = ordered[-1] if key[2] < 0 else ordered[0]
        rest = [end for end in last.next_until_lane_end(0.3) if end.lane_id == key[2]][-1:] if _ends(last) else []
        lanes.append([*ordered, *rest] if key[2] < 0 else [*rest, *ordered])
    return lanes


def _ends(point: Any) -> bool:
    return bool(point.lane_type == carla.LaneType.Driving)


def _edges(points: list[Any]) -> tuple[Floats, Floats]:
    """Left and right edge [N, 2] of a lane, as its driver sees them."""
    rows = []
    for point in points:
        pose, half = point.transform, 0.5 * point.lane_width
        right = pose.get_right_vector()
        x, y = pose.location.x, pose.location.y
        rows.append((x - half * right.x, y - half * right.y, x + half * right.x, y + half * right.y))
    edges = np.array(rows)
    return edges[:, :2], edges[:, 2:]
