"""A planner as a policy.

Letters: N environments, S state size, A action size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.carry import concatenate_rows, take_rows
from actors.records import PolicyOutput
from envs.specs import ArraySpec, EnvSpec, StepBatch
from planners.base import Plan
from planners.config import PlannerConfig
from planners.ensemble import EnsembleModel, Weights
from planners.factory import make_planner
from planners.sampling import uniform_actions


@dataclass(frozen=True)
class PlanningCarry:
    """What a planning policy remembers."""

    seed: NDArray[np.uint64]  # [N] root of the policy's own random numbers
    step: NDArray[np.int64]  # [N] steps taken so far with this seed
    plan: Any  # [N] the planner's


class Observer(Protocol):
    """Turns what is observed into what the model plans from; told of the weights first."""

    def update(self, weights: Weights) -> Weights:
        """Takes its own arrays of a record; returns the others."""
        ...

    def __call__(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Flat observations [N, S] -> latents [N, L]."""
        ...


class PlannerPolicy:
    """Acts by planning, at random until there are weights (version 0); see actors.records.Policy.

    Rows draw their randomness from their own seeds, so what a row does is independent of its batch. Noise on the action
    is the policy's and acts where it explores; noise of a search is the planner's, see planners.base.Planner.

    Args:
        spec: The environment.
        observation_keys: Keys whose flattened values, in this order, are the model's state.
        config: The planner.
        exploration_std: Standard deviation of the Gaussian noise added to explored actions, in half-widths of the box.
        observer: What the model plans from, None for the state itself.

    Raises:
        ValueError: An observation key is unknown, the action is discrete or unbounded, exploration_std is negative, or
            an ensemble has not what the planner needs.
    """

    def __init__(
        self,
        spec: EnvSpec,
        observation_keys: Sequence[str],
        config: PlannerConfig,
        exploration_std: float = 0.0,
        observer: Observer | None = None,
    ) -> None:
        unknown = [key for key in observation_keys if key not in spec.observation]
        if unknown or not observation_keys:
            raise ValueError(f"observation keys must be among {sorted(spec.observation)}, not {list(observation_keys)}")
        if not 0.0 <= exploration_std < math.inf:
            raise ValueError(f"exploration_std must be finite and not negative, not {exploration_std}")
        self.version = 0
        self.extras: dict[str, ArraySpec] = {}
        self._keys = tuple(observation_keys)
        self._low, self._high = spec.action.box(f"the action of {spec.name}")
        self._shape = spec.action.shape
        self._noise_scale = np.float32(0.5 * exploration_std) * (self._high - self._low)
        self._observer = observer
        self._model = EnsembleModel(self._low, self._high)
        self._planner = make_planner(config, self._model, self._low, self._high)

    def initial(self, seeds: NDArray[np.uint64]) -> PlanningCarry:
        """The carry of len(seeds) environments."""
        return PlanningCarry(np.array(seeds, np.uint64), np.zeros(len(seeds), np.int64), self._planner.initial(seeds))

    def act(self, step: StepBatch, carry: PlanningCarry, explore: bool) -> PolicyOutput:
        """Plans one action per row; `explore` adds noise, clipped to the box, and lets the planner explore.

        Metrics are those of the plan and planning_ms of the call; the first are missing before there are weights.
        """
        start = perf_counter()
        metrics: dict[str, NDArray[np.float32]] = {}
        if self.version == 0:
            action = uniform_actions(self._low, self._high, carry.seed, carry.step)
            following = self._planner.skip(carry.plan)
        else:
            plan, following = self._plan(step, carry.plan, explore)
            action, metrics = plan.action, plan.metrics()
        metrics["planning_ms"] = np.full(len(action), 1e3 * (perf_counter() - start), np.float32)
        if explore and self._noise_scale.any():
            noise = [
                np.random.default_rng((int(seed), int(count))).standard_normal(len(self._low), np.float32)
                for seed, count in zip(carry.seed, carry.step, strict=True)
            ]
            action = np.clip(action + self._noise_scale * np.stack(noise), self._low, self._high)
        next_carry = PlanningCarry(carry.seed, carry.step + 1, following)
        return PolicyOutput(action.reshape(len(action), *self._shape), next_carry, metrics)

    def update(self, version: int, weights: Weights) -> None:
        """Replaces the weights if `version` is newer."""
        if version > self.version:
            self._model.update(weights if self._observer is None else self._observer.update(weights))
            self.version = version

    def _plan(self, step: StepBatch, carry: Any, explore: bool) -> tuple[Plan, Any]:
        """Plans for all rows, as many at once as fit into memory."""
        problems, rows = (self._observation(step), carry, step.is_first), self._model.max_problems
        turns = [take_rows(problems, slice(start, start + rows)) for start in range(0, len(step.is_first), rows)]
        plans = [self._planner.plan(state, own, first, explore) for state, own, first in turns]
        return concatenate_rows(plans)  # type: ignore[no-any-return]

    def _observation(self, step: StepBatch) -> NDArray[np.float32]:
        """What the model plans from, [N, S] or [N, L]."""
        parts = [step.observation[key] for key in self._keys]
        state = np.concatenate([np.asarray(part, np.float32).reshape(len(part), -1) for part in parts], axis=1)
        return state if self._observer is None else self._observer(state)
