"""Bounds of actions as policies take them."""

from __future__ import annotations

import numpy as np
import pytest

from envs.specs import ACTION_LIMIT, ArraySpec


def test_a_box_keeps_bounds_that_float32_holds() -> None:
    low, high = ArraySpec((2, 1), "float32", (-1.5, 0.0), (2.0, 0.25)).box()
    assert low.dtype == high.dtype == np.float32
    assert (low.tolist(), high.tolist()) == ([-1.5, 0.0], [2.0, 0.25])


@pytest.mark.parametrize("bound", [0.3, 0.7, 1e6 + 0.1, 1e-20])
def test_bounds_are_rounded_inwards(bound: float) -> None:
    low, high = ArraySpec((1,), "float32", -bound, bound).box()
    assert -bound <= low[0].item() < -0.999 * bound
    assert 0.999 * bound < high[0].item() <= bound


@pytest.mark.parametrize(("lowest", "highest"), [(0.1, 0.1), (-3.0, -3.0), (0.1, 0.1 + 1e-12), (1e8, 1e8 + 1)])
def test_a_dimension_without_two_numbers_is_fixed_to_the_nearest(lowest: float, highest: float) -> None:
    low, high = ArraySpec((2,), "float32", (lowest, -1.0), (highest, 1.0)).box()
    assert low[0] == high[0] == np.float32(lowest)
    assert (low[1], high[1]) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (ArraySpec((2,), "float32", (-1.0, -3e38), (1.0, 3e38)), r"dimension 1 of its action is in \[-3e\+38"),
        (ArraySpec((1,), "float32", 0.0, 2.0 * ACTION_LIMIT), "overflows float32"),
        (ArraySpec((1,), "float32", -1e300, 0.0), "overflows float32"),
        (ArraySpec((1,), "float32", -np.inf, 0.0), "must be bounded"),
        (ArraySpec((1,), "float32", 1.0, -1.0), "empty"),
        (ArraySpec((), "int64", num_values=3), "a box, not one of 3 discrete ids"),
    ],
)
def test_other_boxes_are_refused(action: ArraySpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action.box("its action")
