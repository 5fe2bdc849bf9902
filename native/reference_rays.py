"""NumPy twin of native.RayScene: the oracle of its tests, ray by ray and box by box."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SKY = 11
_FARTHEST = 1000.0
_HORIZON, _ZENITH = np.array([178.0, 196.0, 214.0]), np.array([96.0, 140.0, 200.0])


class RaySceneReference:
    """The same constructor and methods as native.RayScene."""

    def __init__(
        self,
        classes: NDArray[np.uint8],
        corner: Floats,
        cell: float,
        outside: int,
        heights: NDArray[np.float32],
        height_cell: float,
        palette: NDArray[np.uint8],
        threads: int = 1,
    ) -> None:
        self._classes, self._corner, self._cell, self._outside = classes, corner, cell, outside
        self._heights, self._height_cell, self._palette = heights.astype(np.float64), height_cell, palette
        self._boxes: Floats = np.zeros((0, 15))

    def set_boxes(self, boxes: Floats, labels: NDArray[np.uint32], colors: NDArray[np.uint8]) -> None:
        """See native.RayScene."""
        self._boxes, self._labels, self._colors = boxes, labels, colors

    def cast(
        self, origin: Floats, directions: Floats, range: float, ignored: int = 0
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """See native.RayScene."""
        distance, tag, label, cosine, _, _ = self._cast(origin, directions, range, ignored)
        return distance.astype(np.float32), tag, label, cosine.astype(np.float32)

    def _cast(self, origin: Floats, directions: Floats, reach: float, ignored: int) -> tuple[NDArray[Any], ...]:
        distance = self._ground(origin, directions, reach)
        hit = np.isfinite(distance)
        places = origin + np.where(hit, distance, 0.0)[:, None] * directions
        tag = np.where(hit, self._class(places), _SKY).astype(np.uint8)
        label, which = np.zeros(len(directions), np.uint32), np.full(len(directions), -1)
        cosine = np.where(hit, np.abs(directions[:, 2]), 0.0)
        normal = np.tile([0.0, 0.0, 1.0], (len(directions), 1))
        for number, box in enumerate(self._boxes):
            if ignored and self._labels[number, 0] == ignored:
                continue
            far, face, sign = _meet(box, origin, directions)
            nearer = (far > 0) & (far <= np.minimum(distance, reach))
            axes = box[6:].reshape(3, 3)
            distance = np.where(nearer, far, distance)
            label[nearer], tag[nearer] = self._labels[number]
            which[nearer] = number
            cosine = np.where(nearer, np.abs((axes[face] * directions).sum(axis=1)), cosine)
            normal = np.where(nearer[:, None], axes[face] * sign[:, None], normal)
        return distance, tag, label, cosine, which, normal

    def _class(self, places: Floats) -> NDArray[np.uint8]:
        cells = np.floor((places[:, :2] - self._corner) / self._cell).astype(np.int64)
        low, high = cells.min(axis=1), (np.array(self._classes.shape) - cells).min(axis=1)
        inside = np.logical_and(low >= 0, high > 0)
        cells = np.where(inside[:, None], cells, 0)
        return np.where(inside, self._classes[cells[:, 0], cells[:, 1]], self._outside)

    def _height(self, places: Floats) -> Floats:
        scaled = (places[:, :2] - self._corner) / self._height_cell
        scaled = np.clip(scaled, 0.0, np.array(self._heights.shape) - 1.0)
        low = np.minimum(scaled.astype(np.int64), np.array(self._heights.shape) - 2)
        (a, b), (i, j) = (scaled - low).T, low.T
        h = self._heights
        mixed: Floats = (1 - a) * ((1 - b) * h[i, j] + b * h[i, j + 1]) + a * (
            (1 - b) * h[i + 1, j] + b * h[i + 1, j + 1]
        )
        return mixed

    def _ground(self, origin: Floats, directions: Floats, reach: float) -> Floats:
        if not self._heights.size:
            with np.errstate(divide="ignore", invalid="ignore"):
                distance = -origin[2] / directions[:, 2]
            return np.where((directions[:, 2] < 0) & (origin[2] > 0) & (distance <= reach), distance, np.inf)

        def above(t: Floats) -> Floats:
            places = origin + t[:, None] * directions
            return places[:, 2] - self._height(places)

        found = np.full(len(directions), np.inf)
        if above(np.zeros(len(directions)))[0] <= 0:
            return found
        stride = 0.5 * self._height_cell
        for start in np.arange(0.0, reach, stride):
            low = np.full(len(directions), start)
            high = np.minimum(low + stride, reach)
            meets = np.isinf(found) & (above(high) <= 0)
            for _ in range(12):
                middle = 0.5 * (low + high)
                is_above = above(middle) > 0
                low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
            found = np.where(meets, high, found)
        return found

    def draw(
        self,
        origin: Floats,
        axes: Floats,
        width: int,
        height: int,
        fov: float,
        kind: str,
        light: Floats,
        ignored: int = 0,
    ) -> NDArray[np.uint8]:
        """See native.RayScene."""
        focal = 0.5 * width / math.tan(0.5 * fov)
        forward, right, up = axes.reshape(3, 3)
        u = (np.arange(width) + 0.5 - 0.5 * width) / focal
        v = (0.5 * height - np.arange(height) - 0.5) / focal
        d = forward + u[None, :, None] * right + v[:, None, None] * up
        d = (d / np.sqrt(1.0 + u[None, :] ** 2 + v[:, None] ** 2)[..., None]).reshape(-1, 3)
        distance, tag, _, _, which, normal = self._cast(origin, d, _FARTHEST, ignored)
        out = np.full((height * width, 4), 255, np.uint8)
        if kind == "tags":
            out[:, :2], out[:, 2] = 0, tag
        elif kind == "depth":
            depth = np.minimum(distance.astype(np.float32) * (d @ forward) / _FARTHEST, 1.0)
            steps = (depth * 16777215.0 + 0.5).astype(np.uint32)
            out[:, :3] = np.stack([steps >> 16 & 255, steps >> 8 & 255, steps & 255], axis=1)
        else:
            sky = (_HORIZON + (_ZENITH - _HORIZON) * np.clip(d[:, 2:], 0.0, 1.0)) * (0.15 + 0.85 * light[3])
            base = self._palette[tag & 31].astype(np.float64)
            if len(self._boxes):
                base = np.where(which[:, None] >= 0, self._colors[which], base)
            lit = 0.55 + 0.45 * np.maximum(0.0, normal @ light[:3])
            hit = np.isfinite(distance)
            clear = np.exp(-light[4] * np.where(hit, distance, 0.0))[:, None]
            seen = base * lit[:, None] * (0.1 + 0.9 * light[3]) * clear + sky * (1 - clear)
            out[:, :3] = np.clip(np.where(hit[:, None], seen, sky), 0.0, 255.0)[:, ::-1].astype(np.uint8)
        return out.reshape(height, width, 4)


def _meet(box: Floats, origin: Floats, directions: Floats) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Distance to a box (-1 where it is not met from outside), the axis of the face and the sign of its normal."""
    axes = box[6:].reshape(3, 3)
    along = directions @ axes.T
    away = axes @ (box[:3] - origin)
    with np.errstate(divide="ignore", invalid="ignore"):
        one, two = (away - box[3:6]) / along, (away + box[3:6]) / along
    parallel = np.abs(along) < 1e-12
    misses = (parallel & (np.abs(away) > box[3:6])).any(axis=1)
    first = np.where(parallel, -np.inf, np.minimum(one, two))
    last = np.where(parallel, np.inf, np.maximum(one, two))
    face = first.argmax(axis=1)
    near = first.max(axis=1)
    meets = (near <= last.min(axis=1)) & (near > 0) & ~misses
    sign = -np.sign(np.take_along_axis(along, face[:, None], axis=1)[:, 0])
    return np.where(meets, near, -1.0), face, sign
