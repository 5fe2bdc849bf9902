"""Recorded streams held in memory.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.batch import SequenceBatch

Stream = dict[str, NDArray[Any]]
"""Consecutive steps of one environment: observation keys, action, reward, is_first, is_last, is_terminal, episode."""


class StreamDataset:
    """Streams of steps from which sequences are drawn uniformly.

    Args:
        streams: Recorded streams with the same keys.
        first_stream_id: Id of the first stream; the others follow.

    Raises:
        ValueError: If there is no stream, or the keys differ.
    """

    def __init__(self, streams: Sequence[Stream], first_stream_id: int = 0) -> None:
        if not streams:
            raise ValueError("a dataset needs at least one stream")
        if any(stream.keys() != streams[0].keys() for stream in streams):
            raise ValueError("the streams have different keys")
        self._data = {key: np.concatenate([stream[key] for stream in streams]) for key in streams[0]}
        self._lengths = np.array([len(stream["reward"]) for stream in streams])
        self._offsets = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self._first_id = first_stream_id

    def __len__(self) -> int:
        """Number of steps."""
        return int(self._lengths.sum())

    def sample(self, size: int, length: int, rng: np.random.Generator) -> SequenceBatch:
        """B sequences of T steps, every possible start equally likely.

        Raises:
            ValueError: If no stream is as long as the sequences.
        """
        starts = np.maximum(self._lengths - length + 1, 0)
        ends = np.cumsum(starts)
        if ends[-1] == 0:
            raise ValueError(f"no stream has {length} steps, the longest has {self._lengths.max()}")
        pick = rng.integers(ends[-1], size=size)
        stream = np.searchsorted(ends, pick, side="right")
        first = pick - (ends - starts)[stream]
        index = (self._offsets[stream] + first)[:, None] + np.arange(length)
        return SequenceBatch(
            {key: value[index] for key, value in self._data.items()},
            (stream + self._first_id).astype(np.uint64),
            first.astype(np.int64),
            np.zeros(size, np.int64),
            np.ones(size, np.float32),
            np.zeros((size, 3), np.int64),
        )

    def batches(self, size: int, length: int, seed: int) -> Iterator[SequenceBatch]:
        """Endless batches."""
        rng = np.random.default_rng(seed)
        while True:
            yield self.sample(size, length, rng)
