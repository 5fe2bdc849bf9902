"""The observation `birdeye`: layers seen from above, drawn from the map and the snapshot, so the same on any server.

The car looks up. A view is cut from the picture of the road, the route and the stop lines (see `envs.carla.canvas`)
with nearest neighbours; vehicles and walkers are then stamped into it as points less than half a pixel apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.carla.canvas import GO, ROUTE, STOP, Canvas
from envs.carla.road_raster import MARK, ROAD
from envs.carla.scene import Body, Floats

VEHICLE, WALKER, EGO = 8, 16, 128
LAYERS = (
    ("road", ROAD, (90, 90, 90)),
    ("route", ROUTE, (60, 60, 190)),
    ("mark", MARK, (170, 170, 170)),
    ("light_green", GO, (0, 200, 0)),
    ("light_red", STOP, (255, 0, 0)),
    ("vehicle", VEHICLE, (250, 160, 40)),
    ("walker", WALKER, (255, 0, 255)),
    ("ego", EGO, (255, 255, 255)),
)
"""Name, bit and colour of the layers; later ones are painted over earlier ones. The masks have this order."""

_LONGEST, _WIDEST = 3.2, 1.2
"""Half sizes of a body that is drawn without gaps, m."""


class BirdeyeView:
    """Draws views of one size.

    Args:
        canvas: The ground.
        size: Height and width of the view, pixels.
        metres: What they show, m.
        behind: How much of it is behind the car, m.
        half_size: Of the car, m.
        as_masks: One channel a layer, instead of colours.
    """

    def __init__(
        self,
        canvas: Canvas,
        size: int,
        metres: float,
        behind: float,
        half_size: tuple[float, float],
        as_masks: bool = False,
    ) -> None:
        self._canvas, self._size = canvas, size
        self._pixels = size / metres  # per metre
        self._ahead = metres - behind
        self._reach = math.hypot(max(self._ahead, behind), 0.5 * metres) + _LONGEST
        middles = (np.arange(size) + 0.5) / self._pixels
        forward, right = np.meshgrid(self._ahead - middles, middles - 0.5 * metres, indexing="ij")
        scale = canvas.raster.scale
        self._forward = (forward * scale).astype(np.float32).ravel()
        self._right = (right * scale).astype(np.float32).ravel()
        self._ego = np.flatnonzero((np.abs(forward) <= half_size[0]) & (np.abs(right) <= half_size[1]))
        step = 0.45 / self._pixels
        counts = [max(2, math.ceil(2 * half / step) + 1) for half in (_LONGEST, _WIDEST)]
        along, across = np.meshgrid(*(np.linspace(-1.0, 1.0, count) for count in counts), indexing="ij")
        self._along, self._across = along.ravel()[None], across.ravel()[None]
        self._palette = _mask_palette() if as_masks else _colour_palette()

    def draw(self, x: float, y: float, yaw: float, bodies: Sequence[Body], relative: Floats) -> NDArray[np.uint8]:
        """A view [size, size, channels].

        Args:
            x: Position of the car, m.
            y: Position of the car, m.
            yaw: Its direction, rad.
            bodies: What else moves.
            relative: [V, 5] where that is, see `envs.carla.scene.Scene.relative`.
        """
        bits = self._cut(x, y, yaw)
        if len(relative):
            near = np.flatnonzero(np.maximum(np.abs(relative[:, 0]), np.abs(relative[:, 1])) < self._reach).tolist()
            walkers = [row for row in near if bodies[row].is_walker]
            self._stamp(bits, bodies, relative, [row for row in near if not bodies[row].is_walker], VEHICLE)
            self._stamp(bits, bodies, relative, walkers, WALKER)
        bits[self._ego] |= EGO
        return self._palette.take(bits, axis=0).reshape(self._size, self._size, -1)

    def _cut(self, x: float, y: float, yaw: float) -> NDArray[np.uint8]:
        """The ground around the car, flat."""
        raster = self._canvas.raster
        rows, columns = raster.bits.shape
        cos, sin = np.float32(math.cos(yaw)), np.float32(math.sin(yaw))
        at_x = self._forward * cos
        at_x -= self._right * sin
        at_x += np.float32((x - raster.low[0]) * raster.scale)
        at_y = self._forward * sin
        at_y += self._right * cos
        at_y += np.float32((y - raster.low[1]) * raster.scale)
        # What is outside shows the border, which is empty.
        row = at_x.clip(0, rows - 1).astype(np.int32)
        row *= columns
        row += at_y.clip(0, columns - 1).astype(np.int32)
        cut: NDArray[np.uint8] = self._canvas.flat.take(row)
        return cut

    def _stamp(
        self, bits: NDArray[np.uint8], bodies: Sequence[Body], relative: Floats, rows: Sequence[int], bit: int
    ) -> None:
        """Set a bit where bodies are."""
        if not rows:
            return
        pose = relative[rows]
        length = np.array([[bodies[row].half_length] for row in rows])
        width = np.array([[bodies[row].half_width] for row in rows])
        cos, sin = np.cos(pose[:, 2:3]), np.sin(pose[:, 2:3])
        forward = pose[:, 0:1] + (length * cos) * self._along - (width * sin) * self._across
        right = pose[:, 1:2] + (length * sin) * self._along + (width * cos) * self._across
        size = self._size
        # Shifted by a size, so that whatever is outside stays so when it is rounded towards 0.
        row = ((self._ahead - forward) * self._pixels + size).astype(np.int32)
        column = (right * self._pixels + 1.5 * size).astype(np.int32)
        row -= size
        column -= size
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        bits[(row * size + column)[inside]] |= np.uint8(bit)


def _colour_palette() -> NDArray[np.uint8]:
    """[256, 3] colour of every combination of bits."""
    palette = np.zeros((256, 3), np.uint8)
    combinations = np.arange(256)
    for _, bit, colour in LAYERS:
        palette[(combinations & bit) > 0] = colour
    return palette


def _mask_palette() -> NDArray[np.uint8]:
    """[256, layers] 255 where a layer is."""
    bits = np.array([bit for _, bit, _ in LAYERS])
    return np.where(np.arange(256)[:, None] & bits, 255, 0).astype(np.uint8)
