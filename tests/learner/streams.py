"""Synthetic streams and batches for the learner's tests: a point mass with linear dynamics.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.specs import ArraySpec, EnvSpec
from learner.batch import SequenceBatch

SPEC = EnvSpec("point_mass", {"state": ArraySpec((4,), "float32")}, ArraySpec((2,), "float32", -1.0, 1.0), 25, 0.1)
Stream = dict[str, NDArray[Any]]


def make_stream(seed: int, episodes: int = 12, length: int = 25, terminal: bool = False) -> Stream:
    """Episodes of a damped point mass under random forces; reward is minus the distance to the origin."""
    rng = np.random.default_rng(seed)
    steps = episodes * (length + 1)
    state = np.zeros((steps, 4), np.float32)
    action = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    first = np.arange(steps) % (length + 1) == 0
    last = np.arange(steps) % (length + 1) == length
    for t in range(steps):
        if first[t]:
            state[t] = rng.normal(size=4)
        else:
            velocity = 0.9 * state[t - 1, 2:] + 0.2 * action[t - 1]
            state[t] = np.concatenate([state[t - 1, :2] + 0.1 * velocity, velocity])
    reward = np.where(first, 0.0, -np.linalg.norm(state[:, :2], axis=1)).astype(np.float32)
    return {
        "state": state,
        "action": action,
        "reward": reward,
        "is_first": first,
        "is_last": last,
        "is_terminal": last & terminal,
        "episode": np.cumsum(first).astype(np.int64) - 1,
    }


def make_batch(streams: list[Stream], size: int, length: int, rng: np.random.Generator) -> SequenceBatch:
    """B sequences of T steps that start anywhere in the streams."""
    which = rng.integers(len(streams), size=size)
    start = np.array([rng.integers(len(streams[w]["reward"]) - length + 1) for w in which])
    data = {
        key: np.stack([streams[w][key][s : s + length] for w, s in zip(which, start, strict=True)])
        for key in streams[0]
    }
    return SequenceBatch(
        data,
        (which + 1000).astype(np.uint64),
        start.astype(np.int64),
        np.zeros(size, np.int64),
        np.ones(size, np.float32),
        np.zeros((size, 3), np.int64),
    )
