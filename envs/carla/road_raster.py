"""The road of a map, drawn once into a picture from which bird's-eye views are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.carla.roads import Lane, Roads

ROAD, MARK = 1, 2
"""Bits of the layers that are drawn here."""
_MOST_PIXELS = 64_000_000
_MARK_METRES = 0.3
_DASH_POINTS = 3
"""Points of a lane, a metre apart, that a dash is long and apart from the next one."""


@dataclass(frozen=True)
class RoadRaster:
    """A picture of the road.

    Args:
        bits: uint8 [X, Y], bits `ROAD` and `MARK`; the first axis goes along x.
        low: x and y of its corner, m.
        scale: Pixels per metre.
    """

    bits: NDArray[np.uint8]
    low: tuple[float, float]
    scale: float


def draw_road(roads: Roads, pixel_metres: float, margin: float) -> RoadRaster:
    """Draw all lanes of a map.

    Args:
        roads: Of the map.
        pixel_metres: Size of a pixel; it is larger where the map would take too much memory.
        margin: Empty ground around the road, m.
    """
    low = roads.point[:, :2].min(axis=0) - margin
    size = roads.point[:, :2].max(axis=0) + margin - low
    pixel_metres = max(pixel_metres, math.sqrt(float(size[0] * size[1]) / _MOST_PIXELS))
    scale = 1.0 / pixel_metres
    shape = [math.ceil(extent * scale) + 1 for extent in size.tolist()]
    pictures = [Image.new("L", (shape[1], shape[0])) for _ in (ROAD, MARK)]
    road, mark = (ImageDraw.Draw(picture) for picture in pictures)
    width = max(1, round(_MARK_METRES * scale))
    for lane in roads.lanes:
        left, right = ((_edge(lane, side) - low) * scale for side in (-0.5, 0.5))
        _polygon(road, left, right)
        if lane.junction < 0:
            for edge, is_dashed in ((left, lane.left >= 0), (right, lane.right >= 0)):
                _line(mark, edge, is_dashed, width)
    bits = sum(np.asarray(picture, np.uint8) * bit for picture, bit in zip(pictures, (ROAD, MARK), strict=True))
    return RoadRaster(np.ascontiguousarray(bits, np.uint8), (float(low[0]), float(low[1])), scale)


def _edge(lane: Lane, side: float) -> NDArray[np.float64]:
    """[P, 2] points at so many widths to the right of a lane's middle."""
    across = np.stack([-np.sin(lane.yaw), np.cos(lane.yaw)], axis=1)
    edge: NDArray[np.float64] = lane.points[:, :2] + side * lane.width[:, None] * across
    return edge


def _polygon(draw: Any, left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    outline = np.concatenate([left, right[::-1]])[:, ::-1]  # the picture's columns go along y
    draw.polygon([tuple(point) for point in outline.tolist()], fill=1)


def _line(draw: Any, points: NDArray[np.float64], is_dashed: bool, width: int) -> None:
    line = [tuple(point) for point in points[:, ::-1].tolist()]
    if not is_dashed:
        draw.line(line, fill=1, width=width)
        return
    for begin in range(0, len(line) - 1, 2 * _DASH_POINTS):
        draw.line(line[begin : begin + _DASH_POINTS + 1], fill=1, width=width)
