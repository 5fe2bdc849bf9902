"""A selector that goes round: every start in turn, the one that was not drawn for longest first.

The ring holds runs of steps. What is drawn leaves the front and joins the back, where new steps come in too:

    front  [stream 7: 40-63] [stream 9: 0-63] [stream 7: 64-127] [stream 7: 0-39]  back
                 drawn next                        stored since        drawn last

Steps that were evicted meanwhile are dropped when their turn comes; a start whose sequence is not complete yet goes to
the back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.draw.selectors import Starts
from actors.replay.store.chunks import ChunkStore


class TurnSelector:
    """See the module; a `Distribution` whose density is 1, because it comes to every start equally often.

    Args:
        store: The store to select from.
    """

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._runs: deque[tuple[int, int, int]] = deque()  # stream, first step, end

    def mass(self, length: int) -> float:
        return float(self._store.starts(length).sum())

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Starts:
        store, valid = self._store, self._store.starts(length)
        chunks: list[NDArray[np.int64]] = []
        offsets: list[NDArray[np.int64]] = []
        left = count
        while left > 0:
            stream, first, end = self._runs.popleft()
            stored = store.slices(stream, first, end)
            if not stored:
                continue
            chunk, offset, steps = stored[0]
            begin = int(store.start[chunk]) + offset
            taken = min(steps, left, int(valid[chunk]) - offset)
            if taken <= 0:
                self._join(stream, begin, end)
                continue
            chunks.append(np.full(taken, chunk))
            offsets.append(np.arange(offset, offset + taken))
            if begin + taken < end:
                self._runs.appendleft((stream, begin + taken, end))
            self._join(stream, begin, begin + taken)
            left -= taken
        return np.concatenate(chunks), np.concatenate(offsets)

    def density(self, starts: Starts) -> NDArray[np.float64]:
        return np.ones(len(starts[0]))

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        first = int(self._store.start[chunk]) + offset
        self._join(int(self._store.stream_id[chunk]), first, first + count)

    def evicted(self, chunk: int) -> None:
        """Steps that are gone are noticed in their turn; those at the front, at once."""
        while self._runs and not self._store.slices(*self._runs[0]):
            self._runs.popleft()

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "run_stream": np.array([run[0] for run in self._runs], np.uint64),
            "run_span": np.array([run[1:] for run in self._runs], np.int64).reshape(-1, 2),
        }

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        spans = state["run_span"].tolist()
        self._runs = deque((s, a, b) for s, (a, b) in zip(state["run_stream"].tolist(), spans, strict=True))

    def _join(self, stream: int, first: int, end: int) -> None:
        """Put steps to the back, as one run with those before them where they follow on."""
        if self._runs and self._runs[-1][0] == stream and self._runs[-1][2] == first:
            first = self._runs.pop()[1]
        self._runs.append((stream, first, end))
