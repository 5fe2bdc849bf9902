"""Planning with the native ensemble kernel.

Letters: B problems, N candidates, H horizon, A action size, P particles, K members.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import Ensemble
from planners.base import Objective, Plan, PlannerCarry, concatenate_rows, take_rows
from planners.config import PlannerConfig
from planners.sampling import SamplingPlanner

_MAX_FLOATS = 1 << 24
"""Candidate actions and returns of one search, in floats; more problems are planned in turns."""


class EnsemblePlanner:
    """Plans with an MLP ensemble in C++; see planners.base.Planner.

    A problem's plan is the same, bit for bit, alone or in a batch and for any number of threads.

    Args:
        config: Search, objective, particles, precision and threads.
        weights: Weights record of the ensemble (see native.Ensemble).
        low: [A] lower bounds of the action.
        high: [A] upper bounds of the action.
        objective: Score of particle returns; None builds the configured one.
        isa: Forces an instruction set, for tests and benchmarks.

    Raises:
        ValueError: The record is inconsistent, particles is no multiple of the members, or the box does not fit.
    """

    def __init__(
        self,
        config: PlannerConfig,
        weights: dict[str, NDArray[Any]],
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        objective: Objective | None = None,
        isa: str | None = None,
    ) -> None:
        self.config = config
        self._isa = isa
        self._num_actions = int(np.size(low))
        self.update(weights)
        self._planner = SamplingPlanner(config, low, high, self.evaluate, objective)
        floats = config.population * (config.horizon * self._num_actions + self._particles)
        self._max_problems = max(1, _MAX_FLOATS // floats)

    @property
    def isa(self) -> str:
        """The instruction set that runs."""
        return self._ensemble.isa

    def update(self, weights: dict[str, NDArray[Any]]) -> None:
        """Replaces the weights; on an error the old ones stay."""
        config = self.config
        ensemble = Ensemble(weights, precision=config.precision, isa=self._isa, threads=config.threads)
        if ensemble.action_size != self._num_actions:
            raise ValueError(f"the ensemble takes {ensemble.action_size} actions, the box has {self._num_actions}")
        particles = config.particles or ensemble.num_members
        if particles % ensemble.num_members:
            raise ValueError(f"planner particles {particles} must be a multiple of the {ensemble.num_members} members")
        self._ensemble, self._particles = ensemble, particles

    def initial(self, seeds: NDArray[np.uint64]) -> PlannerCarry:
        """The carry of len(seeds) problems before their first plan."""
        return self._planner.initial(seeds)

    def plan(
        self, observation: NDArray[np.float32], carry: PlannerCarry, is_first: NDArray[np.bool_]
    ) -> tuple[Plan, PlannerCarry]:
        """Plans for the observations [B, S]; rows with `is_first` forget their last plan."""
        observation = np.ascontiguousarray(observation, np.float32)
        if len(observation) <= self._max_problems:
            return self._planner.plan(observation, carry, is_first)
        turns = [
            self._planner.plan(observation[rows], take_rows(carry, rows), is_first[rows])
            for start in range(0, len(observation), self._max_problems)
            for rows in [slice(start, start + self._max_problems)]
        ]
        plans, carries = zip(*turns, strict=True)
        return concatenate_rows(plans), concatenate_rows(carries)

    def evaluate(
        self, observation: NDArray[np.float32], actions: NDArray[np.float32], seeds: NDArray[np.uint64]
    ) -> NDArray[np.float32]:
        """Particle returns [B, N, P] of actions [B, N, H, A]; see planners.base.Evaluator."""
        config = self.config
        return self._ensemble.rollout(
            observation,
            np.ascontiguousarray(actions),
            seeds,
            particles=self._particles,
            propagation=config.propagation,
            gamma=config.gamma,
            sample=config.sample,
        )
