"""How jerky a policy acts.

Letters: N environments, A action size.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from envs.specs import ArraySpec


class Jerk:
    """Root mean square change between successive actions of an episode, in half-widths of the action box.

    Where the action is a force this is proportional to the jerk per step. An unbounded dimension counts in its own
    units; ids have no jerk.

    Args:
        action: The environment's action.
        num_envs: Environments, N.
    """

    def __init__(self, action: ArraySpec, num_envs: int) -> None:
        self._known = not action.is_discrete
        self._last = np.full((num_envs, action.size), np.nan)
        self._sums, self._counts = np.zeros(num_envs), np.zeros(num_envs)
        if self._known:
            low, high = (bound.reshape(-1).astype(np.float64) for bound in action.bounds(np.float64))
            half = 0.5 * (high - low)
            self._scale = np.where(np.isfinite(half) & (half > 0.0), 1.0 / np.where(half > 0.0, half, 1.0), 1.0)

    def add(self, envs: NDArray[np.int64], actions: NDArray[np.generic]) -> None:
        """Count the actions [n, ...] of the environments `envs` [n]."""
        if not self._known:
            return
        taken = np.asarray(actions, np.float64).reshape(len(envs), -1)
        change = ((taken - self._last[envs]) * self._scale) ** 2
        seen = ~np.isnan(change).any(axis=1)
        self._sums[envs] += np.where(seen, change.mean(axis=1), 0.0)
        self._counts[envs] += seen
        self._last[envs] = taken

    def episode(self, env: int) -> float | None:
        """Of an environment's episode; None for ids, 0 before the second action."""
        if not self._known:
            return None
        return math.sqrt(self._sums[env] / max(self._counts[env], 1.0))
