"""Random numbers of rows, each a function of its own seed.

Letters: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class RandomCarry:
    """Where every row stands in its own stream of random numbers."""

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
        self._stride = np.uint64(count * _GOLDEN % 2**64)

    def bits(self, carry: RandomCarry) -> tuple[NDArray[np.uint64], RandomCarry]:
        """[N, count] random bits, and where the rows stand then."""
        return _mix(carry.state[:, None] + self._offset), RandomCarry(carry.state + self._stride)

    def uniform(self, carry: RandomCarry) -> tuple[NDArray[np.float32], RandomCarry]:
        """[N, count] in [0, 1), multiples of 2^-24, and where the rows stand then."""
        bits, following = self.bits(carry)
        bits >>= np.uint64(40)
        return bits.astype(np.float32) * np.float32(2.0**-24), following


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64, in place."""
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits
