"""native.SumTree against its twin, and what sums of rounded numbers must still promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from native import SumTree
from native.reference import SumTreeReference

BELOW_ONE = np.nextafter(1.0, 0.0)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def floats(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[str, tuple[Any, ...]]]]:
    """A tree size and calls whose sums are exact: priorities are small multiples of 1/4."""
    size = draw(st.one_of(st.integers(1, 20), st.integers(60, 70), st.integers(500, 600)))
    exact = st.integers(0, 40).map(lambda n: n / 4)
    calls: list[tuple[str, tuple[Any, ...]]] = []
    for _ in range(draw(st.integers(1, 8))):
        name = draw(st.sampled_from(["update", "assign", "fill"]))
        first = draw(st.integers(0, size - 1))
        if name == "update":
            index = draw(st.lists(st.integers(0, size - 1), max_size=12))
            values = draw(st.lists(exact, min_size=len(index), max_size=len(index)))
            calls.append((name, (ints(*index), floats(*values))))
        elif name == "assign":
            calls.append((name, (first, floats(*draw(st.lists(exact, max_size=min(size - first, 30)))))))
        else:
            calls.append((name, (first, draw(st.integers(0, size - first)), draw(exact))))
    return size, calls


@settings(max_examples=200, deadline=None)
@given(histories(), st.lists(st.integers(0, 2**20 - 1), min_size=1, max_size=300))
def test_equals_the_twin_after_any_history(
    history: tuple[int, list[tuple[str, tuple[Any, ...]]]], numerators: list[int]
) -> None:
    size, calls = history
    tree, twin = SumTree(size), SumTreeReference(size)
    for name, arguments in calls:
        getattr(tree, name)(*arguments)
        getattr(twin, name)(*arguments)
        assert tree.total == twin.total
    np.testing.assert_array_equal(tree.get(np.arange(size)), twin.leaves)
    uniform = np.array(numerators) / 2**20  # times a multiple of 1/4: exact
    if twin.total == 0:
        with pytest.raises(ValueError, match="no leaf has a positive priority"):
            tree.sample(uniform)
        return
    for ours, theirs in zip(tree.sample(uniform), twin.sample(uniform), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_literal_draws() -> None:
    tree = SumTree(5)
    tree.assign(0, floats(1, 0, 2, 1, 0))
    index, priority = tree.sample(floats(0.0, 0.2499, 0.25, 0.7499, 0.75, BELOW_ONE))
    assert index.tolist() == [0, 0, 2, 2, 3, 3]
    assert priority.tolist() == [1, 1, 2, 2, 1, 1]
    assert tree.size == 5
    assert tree.total == 4


def test_of_repeated_indices_the_last_wins() -> None:
    tree = SumTree(100)
    tree.update(ints(7, 3, 7, 7), floats(1, 2, 5, 4))
    assert tree.get(ints(7, 3, 7)).tolist() == [4, 2, 4]
    assert tree.total == 6


def test_no_drift_after_a_million_updates() -> None:
    """The sums are bit for bit those of a tree that never held anything else."""
    rng = np.random.default_rng(0)
    size = 3000
    tree, fresh = SumTree(size), SumTree(size)
    for _ in range(2000):
        tree.update(rng.integers(0, size, 500), rng.random(500) * 10.0 ** rng.integers(-12, 13, 500))
    leaves = tree.get(np.arange(size))
    fresh.assign(0, leaves)
    assert tree.total == fresh.total
    uniform = rng.random(4000)
    np.testing.assert_array_equal(tree.sample(uniform)[0], fresh.sample(uniform)[0])
    tree.fill(0, size, 0.0)
    assert tree.total == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_no_draw_ends_in_a_leaf_of_priority_zero(seed: int) -> None:
    """Sums that absorb small terms and uniforms at the edges of leaves lead past the last positive leaf at times."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 700))
    leaves = np.where(rng.random(size) < 0.6, 0.0, rng.random(size) * 10.0 ** rng.integers(-18, 19, size))
    leaves[rng.integers(size)] = 1.0
    tree = SumTree(size)
    tree.assign(0, leaves)
    edges = np.cumsum(leaves) / leaves.sum()
    near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 2), [0.0, BELOW_ONE, 5e-324]])
    index, priority = tree.sample(np.clip(near, 0, BELOW_ONE))
    assert (index < size).all()
    assert (priority > 0).all()
    np.testing.assert_array_equal(priority, leaves[index])


def test_a_rest_that_rounds_up_to_its_node_stays_in_it() -> None:
    """1.5 + (2^52 + 2) and (2^52 + 3) - 1.5 are ties that round up: no running sum in the second node is larger."""
    tree = SumTree(64)
    tree.update(ints(0, 8), floats(1.5, 2**52 + 2))
    assert tree.total == 2**52 + 4
    assert tree.sample(floats(1 - 2.0**-52))[0].tolist() == [8]


def test_draws_follow_the_priorities() -> None:
    rng = np.random.default_rng(1)
    leaves = rng.random(300) ** 3
    tree = SumTree(300)
    tree.assign(0, leaves)
    draws = 300_000
    counts = np.bincount(tree.sample(rng.random(draws))[0], minlength=300)
    expected = draws * leaves / leaves.sum()
    used = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[used].sum()
    assert abs(chi2 - used.sum()) < 4.5 * np.sqrt(2 * used.sum())


@pytest.mark.parametrize("bad", [np.nan, -1e-300, np.inf, -np.inf, 1e308])
def test_bad_priorities_are_refused_and_nothing_changes(bad: float) -> None:
    tree = SumTree(40)
    tree.fill(0, 40, 2.0)
    with pytest.raises(ValueError, match=r"priorities must lie in \[0, .*\], not (-?nan|-?inf|-1e-300|1.*e\+308)"):
        tree.update(ints(1, 2), floats(5.0, bad))
    with pytest.raises(ValueError, match="priorities must lie"):
        tree.assign(0, floats(5.0, bad))
    with pytest.raises(ValueError, match="priorities must lie"):
        tree.fill(0, 3, bad)
    assert tree.total == 80
    assert (tree.get(np.arange(40)) == 2).all()


def test_the_largest_priorities_still_add_up() -> None:
    tree = SumTree(1000)
    tree.fill(0, 1000, tree.max_priority)
    assert np.isfinite(tree.total)
    assert tree.sample(floats(BELOW_ONE))[0].tolist() == [999]


def test_bad_arguments_are_refused_and_nothing_changes() -> None:
    tree = SumTree(10)
    tree.fill(0, 10, 1.0)
    for index in (-1, 10, 2**62):
        with pytest.raises(ValueError, match=rf"index must lie in \[0, 10\), not {index}"):
            tree.update(ints(0, index), floats(7, 7))
        with pytest.raises(ValueError, match="index must lie"):
            tree.get(ints(index))
    for first, count in ((-1, 1), (10, 1), (8, 3), (0, -1), (2**62, 2**62)):
        with pytest.raises(ValueError, match=rf"not {count} from {first} on"):
            tree.fill(first, count, 1.0)
    with pytest.raises(ValueError, match="not 3 from 8 on"):
        tree.assign(8, floats(7, 7, 7))
    with pytest.raises(ValueError, match=r"priority must have shape \[2\], not \[1\]"):
        tree.update(ints(0, 1), floats(7))
    for uniform in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match=r"uniforms must lie in \[0, 1\)"):
            tree.sample(floats(0.5, uniform))
    with pytest.raises(TypeError):
        tree.update(np.array([0], np.int32), floats(1))
    with pytest.raises(TypeError):
        tree.sample(np.array([0.5], np.float32))
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        SumTree(0)
    assert tree.total == 10


def test_empty_batches_are_fine() -> None:
    tree = SumTree(3)
    tree.update(ints(), floats())
    tree.assign(3, floats())
    tree.fill(3, 0, 1.0)
    tree.fill(1, 1, 1.0)
    assert tree.sample(floats())[0].shape == (0,)
    assert tree.total == 1
