"""native.RowGather against its twin, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from native import RowGather
from native.reference import chain_rows, gather_rows

ROWS = 60


def make_arrays() -> list[NDArray[Any]]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (ROWS, 4, 5, 3), dtype=np.uint8),
        rng.random((ROWS, 2)).astype(np.float32),
        np.arange(ROWS),
        rng.random(ROWS) < 0.5,
        np.zeros((ROWS, 0), np.float32),
    ]


def outputs(arrays: list[NDArray[Any]], rows: int) -> list[NDArray[Any]]:
    return [np.full((rows, *a.shape[1:]), 77, a.dtype) for a in arrays]


runs = st.lists(st.integers(0, ROWS - 1).flatmap(lambda f: st.tuples(st.just(f), st.integers(0, ROWS - f))), max_size=9)


@settings(max_examples=150, deadline=None)
@given(runs, st.integers(1, 3))
def test_equals_the_twin_for_any_runs_and_threads(spans: list[tuple[int, int]], threads: int) -> None:
    arrays = make_arrays()
    first = np.array([f for f, _ in spans], np.int64)
    count = np.array([n for _, n in spans], np.int64)
    out = outputs(arrays, int(count.sum()))
    RowGather(arrays, threads).gather(first, count, out)
    for array, got in zip(arrays, out, strict=True):
        np.testing.assert_array_equal(got, gather_rows(array, first, count))


@settings(max_examples=150, deadline=None)
@given(
    st.permutations(range(6)),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=5),
    st.integers(1, 25),
)
def test_chains_equal_the_twin(order: list[int], starts: list[tuple[int, int]], length: int) -> None:
    """Six chunks of ten rows, linked in any order; every start has at least 30 steps in front of it."""
    next_chunk = np.full(6, -1)
    next_chunk[order[:-1]] = order[1:]
    chunk = np.array([order[place] for place, _ in starts], np.int64)
    offset = np.array([at for _, at in starts], np.int64)
    arrays = make_arrays()
    out = [np.empty((len(starts), length, *a.shape[1:]), a.dtype) for a in arrays]
    RowGather(arrays).gather_chains(chunk, offset, length, 10, next_chunk, out)
    rows = chain_rows(chunk, offset, length, 10, next_chunk)
    for array, got in zip(arrays, out, strict=True):
        np.testing.assert_array_equal(got, array[rows])


def test_later_changes_of_the_arrays_are_seen() -> None:
    arrays = [np.zeros(4)]
    gather = RowGather(arrays)
    arrays[0][2] = 5
    out = [np.empty(2)]
    gather.gather(np.array([1]), np.array([2]), out)
    assert out[0].tolist() == [0, 5]


def test_the_kernel_keeps_its_arrays_alive() -> None:
    gather = RowGather([np.full(1_000_000, 3.0)])
    out = [np.empty(10)]
    gather.gather(np.array([999_990]), np.array([10]), out)
    assert (out[0] == 3).all()


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1), (ROWS, 1), (0, ROWS + 1), (2**62, 2**62)])
def test_runs_outside_are_refused_and_nothing_is_copied(first: int, count: int) -> None:
    arrays = make_arrays()
    out = outputs(arrays, 2)
    with pytest.raises(ValueError, match=rf"runs must lie in \[0, 60\), not {count} rows from {first} on"):
        RowGather(arrays).gather(np.array([0, first]), np.array([1, count]), out)
    assert all((o == np.array(77, o.dtype)).all() for o in out)


def test_outputs_that_do_not_fit_are_refused_and_nothing_is_copied() -> None:
    arrays = make_arrays()
    gather = RowGather(arrays)
    first, count = np.array([3]), np.array([2])
    cases: list[tuple[int, NDArray[Any], str]] = [
        (2, np.zeros(2, np.int32), r"out\[2\] must have dtype int64, not int32"),
        (2, np.zeros(3, np.int64), r"out\[2\] must have 16 bytes, not 24"),
        (2, np.zeros(4, np.int64)[::2], r"out\[2\] must be C-contiguous"),
        (2, np.broadcast_to(np.int64(1), 2), r"out\[2\] must be"),
    ]
    frozen = np.zeros(2, np.int64)
    frozen.flags.writeable = False
    cases.append((2, frozen, r"out\[2\] must be writeable"))
    for place, wrong, message in cases:
        out = outputs(arrays, 2)
        out[place] = wrong
        with pytest.raises(ValueError, match=message):
            gather.gather(first, count, out)
        assert (out[0] == 77).all()
    with pytest.raises(ValueError, match="out must hold 5 arrays, not 4"):
        gather.gather(first, count, outputs(arrays, 2)[:4])
    with pytest.raises(ValueError, match=r"count must have shape \[1\], not \[2\]"):
        gather.gather(first, np.array([1, 1]), outputs(arrays, 2))
    with pytest.raises(TypeError):
        gather.gather(np.array([3], np.int32), count, outputs(arrays, 2))


def test_bad_arrays_and_chains_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many rows, not 3 and 4"):
        RowGather([np.zeros(3), np.zeros(4)])
    with pytest.raises(ValueError, match="C-contiguous"):
        RowGather([np.zeros((4, 4)).T])
    with pytest.raises(ValueError, match="at least one array"):
        RowGather([])
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        RowGather([np.zeros(3)], 0)
    gather, chain, out = RowGather([np.zeros(20)]), np.array([1, -1]), [np.empty((1, 12))]
    gather.gather_chains(np.array([0]), np.array([8]), 12, 10, chain, out)
    with pytest.raises(ValueError, match="a sequence of 12 steps leads to chunk -1 of 2"):
        gather.gather_chains(np.array([0]), np.array([9]), 12, 10, chain, out)
    with pytest.raises(ValueError, match="leads to chunk 7 of 2"):
        gather.gather_chains(np.array([7]), np.array([9]), 12, 10, chain, out)
    with pytest.raises(ValueError, match=r"offset must lie in \[0, 10\), not 10"):
        gather.gather_chains(np.array([0]), np.array([10]), 12, 10, chain, out)
