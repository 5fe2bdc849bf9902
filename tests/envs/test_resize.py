"""Area averaging: against a NumPy oracle at every pixel."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs.resize import AreaResize, area_weights


def oracle(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over areas by repeating every pixel until both grids divide it: exact in integers."""
    rows, columns, channels = picture.shape
    sums = np.repeat(picture.astype(np.int64), height, 0).reshape(height, rows, columns, channels).sum(1)
    sums = np.repeat(sums, width, 1).reshape(height, width, columns, channels).sum(2)
    means: np.ndarray = (2 * sums + rows * columns) // (2 * rows * columns)
    return means


def test_three_pixels_become_two() -> None:
    out = np.empty((1, 2, 1), np.uint8)
    AreaResize((1, 3, 1), (1, 2))(np.array([[[10], [40], [100]]], np.uint8), out)
    assert_array_equal(out[0, :, 0], [20, 80])  # (2 * 10 + 40) / 3, (40 + 2 * 100) / 3


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((96, 96, 3), (64, 64)),
        ((84, 96, 3), (64, 64)),
        ((96, 96, 3), (96, 96)),
        ((96, 96, 3), (48, 32)),
        ((84, 96, 3), (37, 41)),
        ((5, 7, 1), (1, 1)),
    ],
)
def test_every_pixel_is_the_mean_of_its_area(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    resize = AreaResize(shape, size)
    for seed in range(3):
        picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        out = np.empty((*size, shape[2]), np.uint8)
        resize(picture, out)
        difference = np.abs(out - oracle(picture, *size))
        assert difference.max() <= 1  # float32 against exact halves
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_flat_pictures_stay_flat(value: int) -> None:
    out = np.empty((64, 64, 3), np.uint8)
    AreaResize((96, 96, 3), (64, 64))(np.full((96, 96, 3), value, np.uint8), out)
    assert (out == value).all()


def test_views_are_read_and_written_in_place() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    batch = np.zeros((2, 64, 64, 3), np.uint8)
    AreaResize((84, 96, 3), (64, 64))(picture[:84], batch[1])
    assert not batch[0].any()
    assert np.abs(batch[1] - oracle(picture[:84], 64, 64)).max() <= 1


def test_a_call_allocates_no_picture() -> None:
    resize = AreaResize((96, 96, 3), (64, 64))
    picture, out = np.ones((96, 96, 3), np.uint8), np.empty((64, 64, 3), np.uint8)
    resize(picture, out)
    tracemalloc.start()
    try:
        resize(picture, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4096  # the smallest picture at hand has 12,288 bytes


def test_weights_of_a_row_sum_to_one() -> None:
    for size, smaller in ((3, 2), (21, 16), (96, 61), (4, 4)):
        weights = area_weights(size, smaller)
        assert_allclose(weights.sum(1), np.ones(smaller), rtol=1e-6)
        assert_allclose(weights.sum(0), np.full(size, smaller / size), rtol=1e-5)


def test_pictures_are_not_enlarged() -> None:
    with pytest.raises(ValueError, match="97 x 64"):
        AreaResize((96, 96, 3), (97, 64))
