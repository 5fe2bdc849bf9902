"""Distributions over the valid starts of one store.

A selector sees the chunk store and is told of every insert and eviction, so a prioritized selector can
keep one leaf per stored step, and a queue its position. `Mixture` combines several; the mass of each says
how much of the whole replay's share of that distribution lies in this store.

Letters: B sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.replay.store.chunks import ChunkStore

Starts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(chunk [B], offset [B] within the chunk) of the first step of B sequences."""


class Selector(Protocol):
    """Chooses starts of sequences in one store."""

    def mass(self, length: int) -> float:
        """How much there is to choose from, for sequences of `length` steps; adds up over stores."""
        ...

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Starts:
        """`count` starts, the mass being positive; a queue that runs empty gives fewer."""
        ...

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        """Steps `offset` .. `offset + count - 1` of a chunk were stored, after the others of their stream."""
        ...

    def evicted(self, chunk: int) -> None:
        """The steps of a chunk were dropped; the store holds none of them any more."""
        ...

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The selector's memory beyond the store's, as arrays."""
        ...

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over a `state_arrays`; the store must hold the steps it held then."""
        ...


class Distribution(Selector, Protocol):
    """Draws with replacement, in proportion to a density; its mass is the sum over the valid starts."""

    def density(self, starts: Starts) -> NDArray[np.float64]:
        """Density [B] at valid starts."""
        ...


class PrioritySelector(Distribution, Protocol):
    """A distribution that follows priorities; steps are inserted with those in `ChunkStore.priority`, if any."""

    def check(self, priority: NDArray[np.float64]) -> None:
        """Raise a ValueError if some of these priorities [B] cannot be set; they are finite and not negative."""
        ...

    def update(self, starts: Starts, priority: NDArray[np.float64]) -> None:
        """Set the priorities [B], which were checked, of stored starts; of repeated starts the last counts."""
        ...

    def adopt(self, state: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], source_rows: NDArray[np.int64]) -> None:
        """Give the steps in `rows` of the store what those in `source_rows` of another's `state_arrays` had."""
        ...


class UniformSelector:
    """Every valid start has density 1.

    One draw costs a binary search over the chunks; the prefix sums are kept until the store changes.
    """

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._before: dict[int, NDArray[np.int64]] = {}

    def mass(self, length: int) -> float:
        return float(self._prefix(length)[-1])

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Starts:
        before = self._prefix(length)
        item = rng.integers(0, before[-1], count)
        chunk = np.searchsorted(before, item, side="right") - 1
        return chunk, item - before[chunk]

    def density(self, starts: Starts) -> NDArray[np.float64]:
        return np.ones(len(starts[0]))

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        self._before.clear()

    def evicted(self, chunk: int) -> None:
        self._before.clear()

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._before.clear()

    def _prefix(self, length: int) -> NDArray[np.int64]:
        """Valid starts before each chunk, and in all chunks [capacity + 1]."""
        before = self._before.get(length)
        if before is None:
            before = np.zeros(self._store.capacity + 1, np.int64)
            np.cumsum(self._store.starts(length), out=before[1:])
            self._before[length] = before
        return before
