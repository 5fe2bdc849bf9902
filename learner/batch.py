"""The record a learner consumes.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SequenceBatch:
    """B sequences of T consecutive steps of one stream each; sequences may cross episode ends (`is_first`)."""

    data: dict[str, NDArray[Any]]  # observations, action, reward, is_first, is_last, is_terminal, episode: [B, T, ...]
    stream_id: NDArray[np.uint64]  # [B] the stream a sequence was cut from
    first_step: NDArray[np.int64]  # [B] index within the stream of the sequence's first step
    policy_version: NDArray[np.int64]  # [B] weights version that produced the first step
    weight: NDArray[np.float32]  # [B] importance weight, 1 under uniform sampling
    handle: NDArray[np.int64]  # [B, 3] (chunk, offset, generation) for late writes

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        return self.data["is_first"].shape[0], self.data["is_first"].shape[1]

    def map_rows(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> SequenceBatch:
        """A batch of what `function` makes of every array, all of which have one row per sequence."""
        return SequenceBatch(
            data={key: function(value) for key, value in self.data.items()},
            stream_id=function(self.stream_id),
            first_step=function(self.first_step),
            policy_version=function(self.policy_version),
            weight=function(self.weight),
            handle=function(self.handle),
        )
