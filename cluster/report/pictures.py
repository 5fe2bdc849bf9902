"""Pictures of a run: GIFs of episodes, and what an image model predicts beside what came.

Letters: N sequences, T steps, C channels.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cluster.run_dir import replacing

Pixels = NDArray[np.uint8]

OBSERVED, IMAGINED = (46, 204, 113), (231, 76, 60)
"""Colours of the borders of steps that the model has seen, and of those it has not."""
BORDER, GAP, HEAD = 2, 2, 14
BACKGROUND = 32
"""Grey level between pictures."""


def write_gif(path: Path, frames: Pixels, frame_ms: int = 100) -> None:
    """Write frames [T, height, width, 3] as an endless GIF."""
    content = gif(frames, frame_ms)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def gif(frames: Pixels, frame_ms: int = 100) -> bytes:
    """Frames [T, height, width, 3] as an endless GIF."""
    images = [Image.fromarray(frame).quantize(colors=128) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=frame_ms, loop=0, optimize=True)
    return buffer.getvalue()


def png(image: Pixels) -> bytes:
    """An image [height, width, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def open_loop_video(truth: NDArray[np.float32], imagined: NDArray[np.float32], seen: int) -> Pixels:
    """What came, what the model imagined, and the difference, below each other; sequences side by side.

    Args:
        truth: [N, T, height, width, C] in [0, 1].
        imagined: Of the same shape; the first `seen` steps are reconstructions.
        seen: Steps that the model observed.

    Returns:
        [T, ...height, ...width, 3], with a border that says whether a step was observed.
    """
    one, two = rgb(truth), rgb(imagined)
    error = _bytes((imagined - truth + 1.0) / 2.0)
    rows = (one, two, rgb_bytes(error))
    frames = []
    for t in range(truth.shape[1]):
        ahead = t + 1 - seen
        color = OBSERVED if ahead <= 0 else IMAGINED
        title = f"observed {t + 1} of {seen}" if ahead <= 0 else f"imagined, step {ahead}"
        frames.append(_titled(_tiles([[_framed(image, color) for image in row[:, t]] for row in rows]), title))
    return np.stack(frames)


def reconstruction_grid(truth: NDArray[np.float32], reconstruction: NDArray[np.float32], columns: int = 8) -> Pixels:
    """Pairs of rows, one pair a sequence: what was observed above what the model remembers of it.

    Args:
        truth: [N, T, height, width, C] in [0, 1].
        reconstruction: Of the same shape.
        columns: Steps shown, evenly spaced.
    """
    steps = np.unique(np.linspace(0, truth.shape[1] - 1, columns).round().astype(int))
    rows = []
    for one, two in zip(rgb(truth[:, steps]), rgb(reconstruction[:, steps]), strict=True):
        rows += [list(one), list(two)]
    return _tiles(rows)


def rgb(values: NDArray[np.float32]) -> Pixels:
    """Images [..., C] in [0, 1] as [..., 3] in bytes."""
    return rgb_bytes(_bytes(values))


def rgb_bytes(values: Pixels) -> Pixels:
    """Images [..., C] as [..., 3]: of stacked frames of three channels the newest, of others the first in grey."""
    return values[..., -3:] if values.shape[-1] % 3 == 0 else np.repeat(values[..., :1], 3, -1)


def _bytes(values: NDArray[np.float32]) -> Pixels:
    pixels: Pixels = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels


def _framed(image: Pixels, color: tuple[int, int, int]) -> Pixels:
    """The image with a border around it."""
    height, width, _ = image.shape
    framed = np.empty((height + 2 * BORDER, width + 2 * BORDER, 3), np.uint8)
    framed[:] = color
    framed[BORDER:-BORDER, BORDER:-BORDER] = image
    return framed


def _tiles(rows: list[list[Pixels]]) -> Pixels:
    """Images of one size in rows and columns."""
    height, width, _ = rows[0][0].shape
    sheet = np.full((len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP, 3), BACKGROUND, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + GAP), j * (width + GAP)
            sheet[top : top + height, left : left + width] = image
    return sheet


def _titled(image: Pixels, title: str) -> Pixels:
    """The image below a line of text."""
    height, width, _ = image.shape
    sheet = Image.new("RGB", (width, height + HEAD), (BACKGROUND,) * 3)
    sheet.paste(Image.fromarray(image), (0, HEAD))
    ImageDraw.Draw(sheet).text((3, 1), title, fill=(235, 235, 235))
    return np.asarray(sheet)
