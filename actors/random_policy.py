"""Random numbers of a policy's rows, and uniformly random actions.

Letters: N environments, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import PolicyOutput
from envs.specs import ArraySpec, StepBatch

_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class RandomCarry:
    """Where every environment stands in its own stream of random numbers."""

    state: NDArray[np.uint64]  # [N] of SplitMix64


class RowGenerator:
    """Draws `count` random numbers for every row at a time.

    A row's numbers are a function of its seed and of how many it has drawn (SplitMix64; Steele, Lea and
    Flood 2014, "Fast splittable pseudorandom number generators"), whatever it is batched with.

    Args:
        count: Numbers of a row per draw.
    """

    def __init__(self, count: int) -> None:
        # What the next `count` numbers add to the state, and the state after them.
        self._offset = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        self._stride = self._offset[-1]

    def bits(self, carry: RandomCarry) -> tuple[NDArray[np.uint64], RandomCarry]:
        """[N, count] random bits, and where the rows stand then."""
        return _mix(carry.state[:, None] + self._offset), RandomCarry(carry.state + self._stride)

    def uniform(self, carry: RandomCarry) -> tuple[NDArray[np.float32], RandomCarry]:
        """[N, count] in [0, 1), multiples of 2^-24, and where the rows stand then."""
        bits, following = self.bits(carry)
        bits >>= np.uint64(40)
        return bits.astype(np.float32) * np.float32(2.0**-24), following


class RandomPolicy:
    """Draws uniformly from the box, or from the ids of a discrete action; see RowGenerator.

    Args:
        action: Spec of the action.

    Raises:
        ValueError: The action is continuous and unbounded.
    """

    def __init__(self, action: ArraySpec) -> None:
        self.version = 0
        self.extras: dict[str, ArraySpec] = {}
        self._action = action
        self._generator = RowGenerator(action.size)
        if not action.is_discrete:
            low, high = action.bounds()
            if not np.isfinite(low).all() or not np.isfinite(high).all():
                raise ValueError(f"a random policy needs a bounded action, got low {action.low} and high {action.high}")
            # float64, so that rounding to the action's dtype cannot leave the box.
            self._low = low.reshape(-1).astype(np.float64)
            self._scale = (high.reshape(-1) - self._low) * 2.0**-24

    def initial(self, seeds: NDArray[np.uint64]) -> RandomCarry:
        """Every row starts at its seed."""
        return RandomCarry(np.asarray(seeds, np.uint64))

    def act(self, step: StepBatch, carry: RandomCarry, explore: bool) -> PolicyOutput:
        """Draw one action per row."""
        bits, following = self._generator.bits(carry)
        shape = (len(bits), *self._action.shape)
        if self._action.num_values is not None:
            ids = (bits >> np.uint64(32)) * np.uint64(self._action.num_values) >> np.uint64(32)
            return PolicyOutput(ids.astype(self._action.dtype).reshape(shape), following)
        bits >>= np.uint64(40)
        action = bits * self._scale
        action += self._low
        return PolicyOutput(action.astype(self._action.dtype).reshape(shape), following)

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Count the version; there are no weights."""
        self.version = max(self.version, version)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64, in place."""
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits
