"""Selectors that keep a density per stored step in a native sum tree: prioritized and recency.

A step has mass only while it is a valid start: until the rest of its sequence follows it, and for the last
steps of a stream, its leaf is 0. The density of every step is kept beside the tree, so that asking for
another length moves the border between the two and forgets nothing.

Letters: B sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.draw.selectors import Starts
from actors.replay.store.chunks import ChunkStore
from native import SumTree

_BELOW_ONE = np.nextafter(1.0, 0.0)
_RESCALE = 500.0  # logarithm of the recency density at which all of them are scaled down


def check_priorities(priority: NDArray[Any], count: int) -> NDArray[np.float64]:
    """The priorities as float64.

    Raises:
        ValueError: There are not `count` of them, or one is negative or not finite.
    """
    values = np.asarray(priority, np.float64)
    if values.shape != (count,):
        raise ValueError(f"expected {count} priorities, got an array of shape {values.shape}")
    if not (values.min(initial=0.0) >= 0.0 and values.max(initial=0.0) < np.inf):  # a NaN is the minimum
        wrong = ~(np.isfinite(values) & (values >= 0))
        raise ValueError(f"priorities must be finite and not negative, got {values[wrong][0]}")
    return values


def stratified(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Uniform numbers [count] in [0, 1), one from each of `count` equal intervals (Schaul et al. 2016, section 3.3)."""
    return np.asarray(np.minimum((np.arange(count) + rng.random(count)) / count, _BELOW_ONE))


class _StartTree:
    """A density per stored step, and a sum tree with the densities of the valid starts."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._density = np.zeros(store.capacity * store.chunk_steps)
        self._tree = SumTree(len(self._density))
        self._open = np.zeros(store.capacity, np.int64)  # leading steps of each chunk that have their leaf
        self._length = 1
        self._changed = False

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Starts:
        self._open_starts(length)
        rows, _ = self._tree.sample(stratified(rng, count))
        chunk, offset = np.divmod(rows, self._store.chunk_steps)
        return chunk, offset

    def evicted(self, chunk: int) -> None:
        first = chunk * self._store.chunk_steps
        self._tree.fill(first, int(self._open[chunk]), 0.0)
        self._open[chunk] = 0
        self._changed = True

    def _rows(self, starts: Starts) -> NDArray[np.int64]:
        return starts[0] * self._store.chunk_steps + starts[1]

    def _open_starts(self, length: int) -> None:
        """Give every valid start of a sequence of `length` steps its leaf, and take it from the others."""
        if not self._changed and length == self._length:
            return
        valid = self._store.starts(length)
        for chunk in np.flatnonzero(valid != self._open).tolist():
            row, old, new = chunk * self._store.chunk_steps, int(self._open[chunk]), int(valid[chunk])
            if new > old:
                self._tree.assign(row + old, self._density[row + old : row + new])
            else:
                self._tree.fill(row + new, old - new, 0.0)
        self._open, self._length, self._changed = valid, length, False

    def _reopen(self) -> None:
        """Write all leaves anew after the densities changed."""
        self._tree.fill(0, self._tree.size, 0.0)
        self._open = np.zeros_like(self._open)
        self._changed = True


class PrioritizedSelector(_StartTree):
    """The density of a start is priority^exponent (Schaul et al. 2016, equation 1).

    A new step has the priority that came with it, or else the largest density that any step ever had, 1 at first.

    Args:
        store: The store to select from.
        exponent: Alpha.
    """

    def __init__(self, store: ChunkStore, exponent: float) -> None:
        super().__init__(store)
        self._exponent = exponent
        self._largest = 1.0

    def mass(self, length: int) -> float:
        self._open_starts(length)
        return self._tree.total

    def density(self, starts: Starts) -> NDArray[np.float64]:
        return np.asarray(self._density[self._rows(starts)])

    def check(self, priority: NDArray[np.float64]) -> None:
        largest = float(priority.max(initial=0.0))
        try:
            density = float(largest**self._exponent)
        except OverflowError:
            density = np.inf
        if density > self._tree.max_priority:
            raise ValueError(f"priority {largest} to the power {self._exponent} is too large to add up")

    def update(self, starts: Starts, priority: NDArray[np.float64]) -> None:
        rows = self._rows(starts)
        density = priority**self._exponent
        self._density[rows] = density
        self._largest = max(self._largest, float(density.max(initial=0.0)))
        is_open = starts[1] < self._open[starts[0]]
        if not is_open.all():
            rows = rows[is_open]
        self._tree.update(rows, self._density[rows])

    def adopt(self, state: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], source_rows: NDArray[np.int64]) -> None:
        density = state["density"][source_rows]
        self._density[rows] = density
        self._largest = max(self._largest, float(density.max(initial=0.0)))
        self._reopen()

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        first = chunk * self._store.chunk_steps + offset
        density: float | NDArray[np.float64] = self._largest
        if self._store.priority is not None:
            given = self._store.priority[first : first + count].astype(np.float64) ** self._exponent
            density = np.where(np.isnan(given), self._largest, given)
            self._largest = max(self._largest, float(density.max()))
        self._density[first : first + count] = density
        self._changed = True

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        return {"density": self._density[self._store.stored_rows()], "largest": np.array(self._largest)}

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._density[self._store.stored_rows()] = state["density"]
        self._largest = float(state["largest"])
        self._reopen()


class RecencySelector(_StartTree):
    """The density of a start is exp(-exponent * age / capacity).

    Its age is the number of steps that the store took in since, so a step as old as the store is large is
    e^exponent times less likely than the newest. Densities too small for float64 are 0.

    Args:
        store: The store to select from.
        exponent: How strongly newer steps are preferred.
    """

    def __init__(self, store: ChunkStore, exponent: float) -> None:
        super().__init__(store)
        self._rate = exponent / (store.capacity * store.chunk_steps)
        self._taken_in = 0  # steps since the densities were last scaled down

    # The leaves hold exp(rate * arrival), which stays as it is while the step ages; only their common scale
    # changes with time.

    def mass(self, length: int) -> float:
        self._open_starts(length)
        return self._tree.total * self._scale

    def density(self, starts: Starts) -> NDArray[np.float64]:
        return np.asarray(self._density[self._rows(starts)] * self._scale)

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        self._taken_in += count
        if self._rate * self._taken_in > _RESCALE:
            self._density *= self._scale
            self._taken_in = 0
            self._reopen()
        first = chunk * self._store.chunk_steps + offset
        arrival = self._taken_in + np.arange(1 - count, 1)
        self._density[first : first + count] = np.exp(self._rate * arrival)
        self._changed = True

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        return {"density": self._density[self._store.stored_rows()], "taken_in": np.array(self._taken_in)}

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._density[self._store.stored_rows()] = state["density"]
        self._taken_in = int(state["taken_in"])
        self._reopen()

    @property
    def _scale(self) -> float:
        return float(np.exp(-self._rate * self._taken_in))
