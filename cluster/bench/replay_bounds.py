"""What the machine itself allows: plain NumPy rings and files, which the replay benchmarks divide by.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.bench.replay_data import StepSource, Work


class Ring:
    """One contiguous ring of pictures and small arrays: no streams, no books, no checks."""

    def __init__(self, source: StepSource, seed: int = 0) -> None:
        self.workload = workload = source.workload
        first = source.block(0).data
        self.data = {
            key: np.empty((workload.stored_steps, *array.shape[1:]), array.dtype) for key, array in first.items()
        }
        self._next = 0
        self._rng = np.random.default_rng(seed)
        self._pictures = np.empty((workload.batch_size, workload.length, 64, 64, 3), np.uint8)
        for block in source.blocks():
            self.insert(block.data)

    def insert(self, data: Mapping[str, NDArray[Any]]) -> None:
        """Copy a block of steps in; blocks divide the ring."""
        low, high = self._next, self._next + len(data["reward"])
        for key, rows in self.data.items():
            rows[low:high] = data[key]
        self._next = high % self.workload.stored_steps

    def starts(self) -> NDArray[np.int64]:
        """Random starts [B] of sequences."""
        return self._rng.integers(0, self.workload.stored_steps - self.workload.length + 1, self.workload.batch_size)

    def gather_reused(self) -> NDArray[np.uint8]:
        """The pictures [B, T, ...] of a batch, one memcpy a sequence, into the same buffer every time."""
        return self._gather(self._pictures)

    def gather_fresh(self) -> NDArray[np.uint8]:
        """The same into new memory."""
        return self._gather(np.empty_like(self._pictures))

    def batch(self) -> dict[str, NDArray[Any]]:
        """A whole batch with every key, in new memory."""
        starts, length = self.starts(), self.workload.length
        batch = {key: np.empty((len(starts), length, *rows.shape[1:]), rows.dtype) for key, rows in self.data.items()}
        for key, rows in self.data.items():
            for row, start in enumerate(starts.tolist()):
                batch[key][row] = rows[start : start + length]
        return batch

    def _gather(self, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pictures = self.data["image"]
        for row, start in enumerate(self.starts().tolist()):
            out[row] = pictures[start : start + self.workload.length]
        return out


def memcpy_bounds(ring: Ring) -> dict[str, Work]:
    """The gathers that a batch is compared with, by name."""
    return {"memcpy, reused buffer": ring.gather_reused, "memcpy, fresh buffer": ring.gather_fresh}


def write_seconds(path: Path, array: NDArray[np.uint8], sync: bool) -> float:
    """Seconds of one np.save, with or without an fsync."""
    start = perf_counter()
    with path.open("wb") as file:
        np.save(file, array)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return perf_counter() - start


def read_seconds(path: Path) -> float:
    """Seconds of one np.load."""
    start = perf_counter()
    np.load(path)
    return perf_counter() - start
