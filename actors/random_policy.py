"""Uniformly random actions.

Letters: N environments, A action size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import PolicyOutput
from envs.specs import ArraySpec, StepBatch
from planners.noise import RandomCarry, RowGenerator


class RandomPolicy:
    """Draws uniformly from the box, or from the ids of a discrete action; see RowGenerator.

    Args:
        action: Spec of the action.
        what: The action, for errors.

    Raises:
        ValueError: The action is continuous and unbounded.
    """

    def __init__(self, action: ArraySpec, what: str = "the action") -> None:
        self.version = 0
        self.extras: dict[str, ArraySpec] = {}
        self._action = action
        self._generator = RowGenerator(action.size)
        if not action.is_discrete:
            # float64, so that rounding to the action's dtype cannot leave the box.
            self._low, high = (bound.astype(np.float64) for bound in action.box(what))
            self._scale = (high - self._low) * 2.0**-24

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
