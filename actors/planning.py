"""A planner as a policy.

Letters: N environments, S state size, A action size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import PolicyOutput
from envs.specs import ArraySpec, EnvSpec, StepBatch
from planners.base import PlannerCarry
from planners.config import PlannerConfig
from planners.ensemble import EnsemblePlanner
from planners.sampling import initial_carry, make_search, random_plan


class PlannerPolicy:
    """Acts by planning, at random until there are weights (version 0); see actors.records.Policy.

    Rows draw their randomness from their own seeds, so what a row does is independent of its batch.

    Args:
        spec: The environment.
        observation_keys: Keys whose flattened values, in this order, are the model's state.
        config: The planner.
        exploration_std: Standard deviation of the Gaussian noise added to explored actions, in half-widths of the box.

    Raises:
        ValueError: An observation key is unknown, the action is discrete or unbounded, or exploration_std is negative.
    """

    def __init__(
        self,
        spec: EnvSpec,
        observation_keys: Sequence[str],
        config: PlannerConfig,
        exploration_std: float = 0.0,
    ) -> None:
        unknown = [key for key in observation_keys if key not in spec.observation]
        if unknown or not observation_keys:
            raise ValueError(f"observation keys must be among {sorted(spec.observation)}, not {list(observation_keys)}")
        if not 0.0 <= exploration_std < math.inf:
            raise ValueError(f"exploration_std must be finite and not negative, not {exploration_std}")
        self.version = 0
        self.extras: dict[str, ArraySpec] = {}
        self._config = config
        self._keys = tuple(observation_keys)
        self._low, self._high = action_box(spec.action)
        self._shape = spec.action.shape
        self._num_kept = make_search(config, self._low, self._high).num_kept
        self._noise_scale = np.float32(0.5 * exploration_std) * (self._high - self._low)
        self._planner: EnsemblePlanner | None = None

    def initial(self, seeds: NDArray[np.uint64]) -> PlannerCarry:
        """The carry of len(seeds) environments."""
        return initial_carry(self._config.horizon, self._num_kept, self._low, self._high, seeds)

    def act(self, step: StepBatch, carry: PlannerCarry, explore: bool) -> PolicyOutput:
        """Plans one action per row; `explore` adds noise, clipped to the box.

        Metrics are return_mean and return_variance of the plan and planning_ms of the call; the first two are missing
        before there are weights.
        """
        start = perf_counter()
        if self._planner is None:
            plan, next_carry = random_plan(self._config, self._low, self._high, carry)
        else:
            plan, next_carry = self._planner.plan(self._observation(step), carry, step.is_first)
        planning_ms = 1e3 * (perf_counter() - start)
        metrics = {"planning_ms": np.full(len(plan.action), planning_ms, np.float32)}
        if self._planner is not None:
            metrics |= {"return_mean": plan.return_mean, "return_variance": plan.return_variance}
        action = plan.action
        if explore and self._noise_scale.any():
            noise = [
                np.random.default_rng((int(seed), int(count))).standard_normal(len(self._low), np.float32)
                for seed, count in zip(carry.seed, carry.step, strict=True)
            ]
            action = np.clip(action + self._noise_scale * np.stack(noise), self._low, self._high)
        return PolicyOutput(action.reshape(len(action), *self._shape), next_carry, metrics)

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Replaces the weights if `version` is newer."""
        if version <= self.version:
            return
        if self._planner is None:
            self._planner = EnsemblePlanner(self._config, weights, self._low, self._high)
        else:
            self._planner.update(weights)
        self.version = version

    def _observation(self, step: StepBatch) -> NDArray[np.float32]:
        """The model's state [N, S]."""
        parts = [step.observation[key] for key in self._keys]
        return np.concatenate([np.asarray(part, np.float32).reshape(len(part), -1) for part in parts], axis=1)


def action_box(action: ArraySpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The flattened bounds [A] of a continuous action.

    Raises:
        ValueError: The action is discrete or unbounded.
    """
    if action.is_discrete:
        raise ValueError(f"planners need a continuous action, not {action.num_values} discrete values")
    low, high = (bound.reshape(-1) for bound in action.bounds())
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"planners need a bounded action, not [{action.low}, {action.high}]")
    return low, high
