"""Shrinking pictures by area averaging."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class AreaResize:
    """Shrinks pictures [height, width, channels]; every pixel is the mean of the area it covers, rounded half up.

    The mean is separable, and its weights repeat after a few pixels (3 -> 2 for 96 -> 64), so a picture is two batched
    products with one small matrix each, in buffers made once: a call allocates no array.

    Args:
        shape: (height, width, channels) of the input.
        size: (height, width) of the output.

    Raises:
        ValueError: If the output is larger than the input.
    """

    def __init__(self, shape: tuple[int, int, int], size: tuple[int, int]) -> None:
        height, width, channels = shape
        if not (1 <= size[0] <= height and 1 <= size[1] <= width):
            raise ValueError(f"a picture of {height} x {width} cannot be shrunk to {size[0]} x {size[1]}")
        rows, columns = math.gcd(height, size[0]), math.gcd(width, size[1])
        self._row_weights = area_weights(height // rows, size[0] // rows)  # [out, in] of one block
        column_weights = area_weights(width // columns, size[1] // columns)
        self._column_weights = np.ascontiguousarray(np.kron(column_weights.T, np.eye(channels, dtype=np.float32)))
        self._input = np.empty(shape, np.float32)
        tall = np.empty((size[0], width * channels), np.float32)
        self._output = np.empty((*size, channels), np.float32)
        self._blocks_in = self._input.reshape(rows, height // rows, width * channels)
        self._blocks_tall = tall.reshape(rows, size[0] // rows, width * channels)
        self._strips_tall = tall.reshape(size[0] * columns, -1)
        self._strips_out = self._output.reshape(size[0] * columns, -1)

    def __call__(self, picture: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Shrink one picture.

        Args:
            picture: [height, width, channels].
            out: [out height, out width, channels], overwritten.
        """
        np.copyto(self._input, picture)
        np.matmul(self._row_weights, self._blocks_in, out=self._blocks_tall)
        np.matmul(self._strips_tall, self._column_weights, out=self._strips_out)
        self._output += 0.5
        np.copyto(out, self._output, casting="unsafe")


def area_weights(size: int, smaller: int) -> NDArray[np.float32]:
    """Share [smaller, size] of every input pixel in every output pixel; rows sum to 1."""
    edges = np.arange(smaller + 1) * (size / smaller)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float32] = (overlap.clip(0) * (smaller / size)).astype(np.float32)
    return weights
