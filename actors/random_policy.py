"""Uniformly random actions.

Letters: N environments, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import PolicyOutput
from envs.specs import ArraySpec, StepBatch


@dataclass(frozen=True)
class RandomCarry:
    """Where every environment stands in its own stream of random numbers."""

    seed: NDArray[np.uint64]  # [N]
    count: NDArray[np.uint64]  # [N] numbers drawn so far


class RandomPolicy:
    """Draws uniformly from the box, or from the ids of a discrete action.

    A row's numbers are a function of its seed and of how many it has drawn (SplitMix64; Steele, Lea and
    Flood 2014, "Fast splittable pseudorandom number generators"), whatever it is batched with.

    Args:
        action: Spec of the action.

    Raises:
        ValueError: The action is continuous and unbounded.
    """

    def __init__(self, action: ArraySpec) -> None:
        self.version = 0
        self._action = action
        self._size = np.uint64(action.size)
        self._index = np.arange(1, action.size + 1, dtype=np.uint64)
        if not action.is_discrete:
            low, high = action.bounds()
            if not np.isfinite(low).all() or not np.isfinite(high).all():
                raise ValueError(f"a random policy needs a bounded action, got low {action.low} and high {action.high}")
            self._low, self._span = low.reshape(-1), (high - low).reshape(-1)

    def initial(self, seeds: NDArray[np.uint64]) -> RandomCarry:
        return RandomCarry(np.asarray(seeds, np.uint64), np.zeros(len(seeds), np.uint64))

    def act(self, step: StepBatch, carry: RandomCarry, explore: bool) -> PolicyOutput:
        bits = _splitmix64(carry.seed[:, None], carry.count[:, None] + self._index)
        following = RandomCarry(carry.seed, carry.count + self._size)
        shape = (len(bits), *self._action.shape)
        if self._action.num_values is not None:
            ids = (bits >> np.uint64(32)) * np.uint64(self._action.num_values) >> np.uint64(32)
            return PolicyOutput(ids.astype(self._action.dtype).reshape(shape), following)
        unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        action = (self._low + unit * self._span).astype(self._action.dtype, copy=False)
        return PolicyOutput(action.reshape(shape), following)

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Count the version; there are no weights."""
        self.version = max(self.version, version)


def _splitmix64(seed: NDArray[np.uint64], count: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = seed + count * np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits
