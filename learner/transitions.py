"""Transitions of sequences: (state_t, action_t, reward_{t+1}, state_{t+1}), with the alignment of envs.specs.

Letters: B sequences, T steps, N transitions, S state size, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.batch import SequenceBatch


@dataclass(frozen=True)
class Transitions:
    """N transitions and their origin."""

    state: NDArray[np.float32]  # [N, S]
    action: NDArray[np.float32]  # [N, A]
    target: NDArray[np.float32]  # [N, S + 1] change of the state, then the reward
    terminal: NDArray[np.float32]  # [N] 1 if the step ended the episode by termination
    weight: NDArray[np.float32]  # [N] importance weight of the sequence
    stream_id: NDArray[np.uint64]  # [N]
    step: NDArray[np.int64]  # [N] index within the stream of the step acted in
    episode: NDArray[np.int64]  # [N] episode counter within the stream

    def __len__(self) -> int:
        return len(self.state)

    def take(self, mask: NDArray[np.bool_]) -> Transitions:
        """The rows where `mask` holds."""
        return Transitions(
            self.state[mask],
            self.action[mask],
            self.target[mask],
            self.terminal[mask],
            self.weight[mask],
            self.stream_id[mask],
            self.step[mask],
            self.episode[mask],
        )


def transitions_of(batch: SequenceBatch, observation_key: str) -> Transitions:
    """Every transition inside the sequences that does not cross from one episode into the next.

    Args:
        batch: Sequences of at least two steps.
        observation_key: Observation that is the state; its trailing axes are flattened.

    Raises:
        ValueError: If the observation is missing or the sequences have fewer than two steps.
    """
    data = batch.data
    if observation_key not in data:
        raise ValueError(f"the batch has no observation {observation_key!r}, only {sorted(data)}")
    size, length = batch.shape
    if length < 2:
        raise ValueError(f"transitions need sequences of at least 2 steps, got {length}")
    keep = ~data["is_first"][:, 1:].astype(np.bool_)  # [B, T - 1]
    state = _flat(data[observation_key])
    action = _flat(data["action"])
    delta = state[:, 1:] - state[:, :-1]
    target = np.concatenate([delta, data["reward"][:, 1:, None].astype(np.float32)], axis=2)
    step = batch.first_step[:, None] + np.arange(length - 1)
    return Transitions(
        state[:, :-1][keep],
        action[:, :-1][keep],
        target[keep],
        data["is_terminal"][:, 1:][keep].astype(np.float32),
        np.broadcast_to(batch.weight[:, None], keep.shape)[keep],
        np.broadcast_to(batch.stream_id[:, None], (size, length - 1))[keep],
        step[keep],
        data["episode"][:, :-1][keep],
    )


def _flat(array: NDArray[Any]) -> NDArray[np.float32]:
    """[B, T, ...] as float32 [B, T, size]."""
    return array.reshape(*array.shape[:2], -1).astype(np.float32, copy=False)
