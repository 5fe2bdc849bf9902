"""Which sequences a sample takes.

A selector sees the chunk store and is told of every insert and eviction, so a prioritized selector can
keep one leaf per stored step, a recency selector its newest starts and a FIFO selector its position.

Letters: B sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.replay.chunks import ChunkStore


@dataclass(frozen=True)
class Selection:
    """Starts of B sequences."""

    chunk: NDArray[np.int64]  # [B]
    offset: NDArray[np.int64]  # [B] within the chunk
    probability: NDArray[np.float64]  # [B] of having been drawn from the shard


class Selector(Protocol):
    """A distribution over the valid starts of one store."""

    def mass(self, length: int) -> float:
        """Weight of this store among its sisters for sequences of `length` steps; 0 if it has none."""
        ...

    def sample(self, rng: np.random.Generator, batch_size: int, length: int) -> Selection:
        """Draw with replacement; the mass must be positive."""
        ...

    def inserted(self, chunk: int, offset: int, count: int) -> None: ...
    def evicted(self, chunk: int) -> None: ...


class UniformSelector:
    """Every valid start is equally likely.

    One draw costs a binary search over the chunks; the prefix sums are kept until the store changes.
    """

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._ends: dict[int, NDArray[np.int64]] = {}

    def mass(self, length: int) -> int:
        return int(self._prefix(length)[-1])

    def sample(self, rng: np.random.Generator, batch_size: int, length: int) -> Selection:
        ends = self._prefix(length)
        total = int(ends[-1])
        assert total > 0
        item = rng.integers(0, total, batch_size)
        chunk = np.searchsorted(ends, item, side="right")
        before = np.where(chunk > 0, ends[chunk - 1], 0)
        return Selection(chunk, item - before, np.full(batch_size, 1.0 / total))

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        self._ends.clear()

    def evicted(self, chunk: int) -> None:
        self._ends.clear()

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._ends.clear()

    def _prefix(self, length: int) -> NDArray[np.int64]:
        ends = self._ends.get(length)
        if ends is None:
            ends = self._ends[length] = np.cumsum(self._store.starts(length))
        return ends
