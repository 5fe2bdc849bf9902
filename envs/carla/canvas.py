"""A map's picture with the route and the stop lines of an episode painted into it, to cut views from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.carla.road_raster import RoadRaster
from envs.carla.scene import Floats

ROUTE, STOP, GO = 4, 32, 64
"""Bits of the layers that are painted here."""
ROUTE_HALF_WIDTH = 0.8
_LINE_HALF_WIDTH = 0.35
_LINES = np.uint8(255 - STOP - GO)


@dataclass(frozen=True)
class StopLine:
    """Where cars stop at a light: a line across a lane."""

    start: tuple[float, float]  # m
    end: tuple[float, float]


class Canvas:
    """A copy of the road's picture; painting changes pixels where something is new, and nothing else.

    Args:
        raster: The road.
    """

    def __init__(self, raster: RoadRaster) -> None:
        self.raster = raster
        self.bits = raster.bits.copy()
        self.flat = self.bits.ravel()
        self._route: NDArray[np.int64] = np.zeros(0, np.int64)
        self._lines: list[NDArray[np.int64]] = []
        self._shown: list[bool | None] = []

    def set_route(self, points: Floats) -> None:
        """Show a route [P, 2], m, instead of the last one."""
        self.flat[self._route] &= np.uint8(255 - ROUTE)
        self._route = self._pixels(points, ROUTE_HALF_WIDTH)
        self.flat[self._route] |= np.uint8(ROUTE)

    def set_lines(self, lines: Sequence[StopLine]) -> None:
        """Replace the stop lines; they show nothing yet."""
        for pixels in self._lines:
            self.flat[pixels] &= _LINES
        self._lines = [self._pixels(np.array([line.start, line.end]), _LINE_HALF_WIDTH) for line in lines]
        self._shown = [None] * len(lines)

    def show_lines(self, are_green: Sequence[bool | None]) -> None:
        """Colour the stop lines: green, red (also where the light is yellow), or not at all."""
        if are_green == self._shown:
            return
        for pixels, is_green, was_green in zip(self._lines, are_green, self._shown, strict=True):
            if is_green is not was_green:
                self.flat[pixels] &= _LINES
                if is_green is not None:
                    self.flat[pixels] |= np.uint8(GO if is_green else STOP)
        self._shown = list(are_green)

    def _pixels(self, points: Floats, half_width: float) -> NDArray[np.int64]:
        """Indices of the pixels of a band along points."""
        gaps = np.diff(points, axis=0)
        lengths = np.maximum(np.hypot(gaps[:, 0], gaps[:, 1]), 1e-9)
        step = 0.45 / self.raster.scale
        between = max(1, math.ceil(float(lengths.max()) / step))
        share = np.linspace(0.0, 1.0, between + 1)
        middle = (points[:-1, None] + share[None, :, None] * gaps[:, None]).reshape(-1, 2)
        across = np.repeat(np.stack([-gaps[:, 1], gaps[:, 0]], axis=1) / lengths[:, None], between + 1, axis=0)
        offsets = np.linspace(-half_width, half_width, max(2, math.ceil(2 * half_width / step) + 1))
        band = (middle[:, None] + offsets[None, :, None] * across[:, None]).reshape(-1, 2)
        rows, columns = self.bits.shape
        row, column = ((band - self.raster.low) * self.raster.scale).astype(np.int64).T
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return np.unique(row[inside] * columns + column[inside])
