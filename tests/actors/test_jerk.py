import numpy as np
import pytest

from actors.jerk import Jerk
from envs.specs import ArraySpec


def test_jerk_is_the_root_mean_square_change_in_half_widths() -> None:
    jerk = Jerk(ArraySpec((2,), "float32", (-1.0, 0.0), (1.0, 4.0)), 2)
    both = np.arange(2)
    jerk.add(both, np.array([[0.0, 0.0], [1.0, 2.0]]))
    assert jerk.episode(0) == 0.0
    jerk.add(both, np.array([[1.0, 2.0], [1.0, 2.0]]))
    jerk.add(both[:1], np.array([[1.0, 2.0]]))
    assert jerk.episode(0) == pytest.approx(np.sqrt((1.0 + 0.0) / 2))
    assert jerk.episode(1) == 0.0


def test_ids_have_no_jerk_and_unbounded_actions_their_own_units() -> None:
    ids = Jerk(ArraySpec((), "int64", num_values=3), 1)
    ids.add(np.arange(1), np.array([2]))
    assert ids.episode(0) is None
    free = Jerk(ArraySpec((1,), "float32"), 1)
    for value in (0.0, 3.0):
        free.add(np.arange(1), np.array([[value]]))
    assert free.episode(0) == 3.0
