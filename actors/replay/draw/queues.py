"""Selectors that take every sequence once, in the order in which sequences became complete.

The queue holds the runs of steps in their order of arrival. A run makes the sequences available whose last
step it brings:

    runs      [stream 7: steps 0-63] [stream 9: 0-63] [stream 7: 64-127] ...
    T = 64    stream 7 from 0        stream 9 from 0  stream 7 from 1 to 64

and a cursor per stream says from which start on nothing was taken yet, so evictions and other lengths
neither repeat nor reorder anything.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.draw.selectors import Starts
from actors.replay.store.chunks import ChunkStore


class QueueSelector:
    """Takes starts in order of arrival, each at most once; starts evicted before their turn are skipped.

    Its mass is the number of starts left.

    Args:
        store: The store to select from.
        overlapping: Whether every step is a start; otherwise each sequence begins where the last one of its
            stream ended, so that each step is taken once (the online queue of Hafner et al. 2025).
    """

    def __init__(self, store: ChunkStore, overlapping: bool = True) -> None:
        self._store = store
        self._overlapping = overlapping
        self._runs: deque[tuple[int, int, int]] = deque()  # stream, first step, end
        self._cursor: dict[int, int] = {}  # stream -> first start that was not taken
        self._length = 1
        self._left = 0  # starts to take

    def mass(self, length: int) -> float:
        if length != self._length:
            self._change_length(length)
        return float(self._left)

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Starts:
        """Take the next starts, at most `count`."""
        if length != self._length:
            self._change_length(length)
        found: list[tuple[int, int]] = []
        while self._runs and len(found) < count:
            stream, _, end = self._runs[0]
            start = max(self._cursor.get(stream, 0), self._store.stream_start(stream, end))
            wanted = min(count - len(found), self._available(start, end))
            found += [self._store.locate(stream, start + i * self._stride) for i in range(wanted)]
            if wanted:
                self._cursor[stream] = start + wanted * self._stride
            if self._available(start + wanted * self._stride, end) == 0:
                self._runs.popleft()
        self._left -= len(found)
        return np.array([chunk for chunk, _ in found], np.int64), np.array([offset for _, offset in found], np.int64)

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        stream = int(self._store.stream_id[chunk])
        first = int(self._store.start[chunk]) + offset
        cursor = self._cursor.setdefault(stream, first)
        start = max(cursor, self._store.stream_start(stream, first))
        self._left += self._available(start, first + count) - self._available(start, first)
        if self._runs and self._runs[-1][0] == stream and self._runs[-1][2] == first:
            first = self._runs.pop()[1]
        self._runs.append((stream, first, int(self._store.start[chunk]) + offset + count))

    def evicted(self, chunk: int) -> None:
        stream = int(self._store.stream_id[chunk])
        end = int(self._store.stream_end[self._store.stream_row[chunk]])
        kept = self._store.stream_start(stream, end)
        cursor = self._cursor.get(stream, 0)
        self._left -= self._available(max(cursor, int(self._store.start[chunk])), end)
        self._left += self._available(max(cursor, kept), end)
        if kept == end and stream not in self._store.streams():
            self._cursor.pop(stream, None)
        while self._runs and self._runs[0][2] <= self._store.stream_start(self._runs[0][0], self._runs[0][2]):
            self._runs.popleft()

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "run_stream": np.array([run[0] for run in self._runs], np.uint64),
            "run_span": np.array([run[1:] for run in self._runs], np.int64).reshape(-1, 2),
            "cursor_stream": np.array(list(self._cursor), np.uint64),
            "cursor": np.array(list(self._cursor.values()), np.int64),
            "length": np.array(self._length),
        }

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        spans = state["run_span"].tolist()
        self._runs = deque((s, a, b) for s, (a, b) in zip(state["run_stream"].tolist(), spans, strict=True))
        self._cursor = dict(zip(state["cursor_stream"].tolist(), state["cursor"].tolist(), strict=True))
        self._length = int(state["length"])
        self._count()

    @property
    def _stride(self) -> int:
        return 1 if self._overlapping else self._length

    def _available(self, start: int, end: int) -> int:
        """Sequences from `start` on that lie before step `end`."""
        return max(0, (end - self._length - start) // self._stride + 1)

    def _count(self) -> None:
        self._left = sum(
            self._available(max(self._cursor.get(stream, start), start), end)
            for stream, start, end in self._store.spans()
        )

    def _change_length(self, length: int) -> None:
        """Shorter sequences may end in runs that have left the queue: those come first."""
        self._length = length
        queued: dict[int, int] = {}
        for stream, first, _ in self._runs:
            queued.setdefault(stream, first)
        gone = [(stream, start, min(end, queued.get(stream, end))) for stream, start, end in self._store.spans()]
        self._runs.extendleft(run for run in reversed(gone) if run[1] < run[2])
        self._count()
