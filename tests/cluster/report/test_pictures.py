"""What stands where in the pictures of an image model."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cluster.report.pictures import (
    BORDER,
    GAP,
    HEAD,
    IMAGINED,
    OBSERVED,
    gif,
    open_loop_video,
    png,
    reconstruction_grid,
    rgb_bytes,
)

SIZE = 6
PITCH = SIZE + 2 * BORDER + GAP


def sequences(levels: list[list[float]]) -> np.ndarray:
    """Grey images, one level a step: [N, T, SIZE, SIZE, 1]."""
    return np.broadcast_to(np.array(levels, np.float32)[..., None, None, None], (*np.shape(levels), SIZE, SIZE, 1))


def test_rows_are_truth_imagination_and_error_and_borders_say_what_was_seen() -> None:
    truth, imagined = sequences([[0.0, 0.2, 1.0], [1.0, 0.4, 0.0]]), sequences([[0.0, 0.2, 0.0], [1.0, 0.4, 1.0]])
    video = open_loop_video(truth, imagined, seen=2)
    assert video.shape == (3, HEAD + 3 * PITCH - GAP, 2 * PITCH - GAP, 3)
    for t, color in enumerate((OBSERVED, OBSERVED, IMAGINED)):
        assert tuple(video[t, HEAD, 0]) == color
        assert tuple(video[t, -1, -1]) == color
    centre = BORDER + SIZE // 2

    def level(t: int, row: int, column: int) -> int:
        pixel = video[t, HEAD + row * PITCH + centre, column * PITCH + centre]
        assert len(set(pixel.tolist())) == 1
        return int(pixel[0])

    assert [level(2, row, 0) for row in range(3)] == [255, 0, 0]
    assert [level(2, row, 1) for row in range(3)] == [0, 255, 255]
    assert [level(1, row, 1) for row in range(3)] == [102, 102, 128]
    assert (video[0, :HEAD] > 100).any(), "a title"


def test_a_grid_has_pairs_of_rows_and_both_ends() -> None:
    truth, seen = sequences([[k / 10 for k in range(11)]]), sequences([[1.0] * 11])
    grid = reconstruction_grid(truth, seen, columns=3)
    assert grid.shape == (2 * SIZE + GAP, 3 * SIZE + 2 * GAP, 3)
    assert grid[1, 1 :: SIZE + GAP, 0].tolist() == [0, 128, 255]
    assert (grid[SIZE + GAP, 1 :: SIZE + GAP] == 255).all()


def test_files_hold_the_frames() -> None:
    frames = np.stack([np.full((8, 12, 3), level, np.uint8) for level in (0, 120, 250)])
    animation = Image.open(io.BytesIO(gif(frames)))
    assert (animation.size, animation.n_frames) == ((12, 8), 3)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(frames[1])))), frames[1])


def test_of_stacked_frames_the_newest_is_shown_and_of_other_channels_the_first_in_grey() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(1, 1, 6)
    assert rgb_bytes(image).tolist() == [[[3, 4, 5]]]
    assert rgb_bytes(image[..., :3]).tolist() == [[[0, 1, 2]]]
    assert rgb_bytes(image[..., 1:3]).tolist() == [[[1, 1, 1]]]
