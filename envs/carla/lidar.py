"""The observation `lidar`: a bird's-eye histogram of the points of a scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GROUND = -1.6
"""Heights, relative to the sensor, from which on points are no ground, m; it hangs `SENSOR_HEIGHT` above the road."""
SENSOR_HEIGHT = 2.0
_FULL = 4
"""Points in a cell that saturate it."""


def histogram(points: NDArray[np.float32], size: int, metres: float) -> NDArray[np.uint8]:
    """Points counted in cells seen from above; forward is up, the sensor is in the middle.

    Args:
        points: [P, 3 or more] forward, right and up of the sensor, m.
        size: Height and width, cells.
        metres: What they show, m.

    Returns:
        [size, size, 3]: points on the ground, points above it, and the height of the highest one above the ground
        (255 at 4 m).
    """
    out = np.zeros((size * size, 3), np.uint8)
    scale = size / metres
    row = np.floor(0.5 * size - points[:, 0] * scale).astype(np.int64)
    column = np.floor(0.5 * size + points[:, 1] * scale).astype(np.int64)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    cell, height = row[inside] * size + column[inside], points[inside, 2]
    above = height > _GROUND
    for channel, chosen in ((0, ~above), (1, above)):
        counts = np.bincount(cell[chosen], minlength=size * size)
        out[:, channel] = np.minimum(counts, _FULL) * (255 // _FULL)
    top = np.zeros(size * size)
    np.maximum.at(top, cell[above], np.clip((height[above] + SENSOR_HEIGHT) * (255.0 / 4.0), 0.0, 255.0))
    out[:, 2] = top
    return out.reshape(size, size, 3)
