"""MLP ensembles in C++ as planners see them.

Letters: B problems, N candidates, H horizon, A action size, P particles, K members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from native import Ensemble
from planners.base import Rollouts
from planners.config import MctsConfig, SequenceConfig
from planners.constraint_config import Cost
from planners.risk import check_part

if TYPE_CHECKING:
    from planners.ensemble_tree import EnsembleTreeModel  # imports torch

Weights = dict[str, NDArray[Any]]
"""Weights record of an ensemble, see native.Ensemble."""

_MAX_FLOATS = 1 << 24
"""Candidate actions and returns of one search, in floats."""


class EnsembleEvaluator:
    """Scores candidates with an MLP ensemble; see planners.base.Evaluator. Needs weights, by `update`, first.

    A candidate's returns are the same, bit for bit, alone or in a batch and for any number of threads.

    Args:
        config: Particles, propagation, precision and threads.
        action_size: A.
        isa: Forces an instruction set, for tests and benchmarks.
    """

    def __init__(self, config: SequenceConfig, action_size: int, isa: str | None = None) -> None:
        self._config, self._action_size, self._isa = config, action_size, isa
        self._ensemble: Ensemble | None = None
        self._particles = 0

    @property
    def isa(self) -> str:
        """The instruction set that runs."""
        assert self._ensemble is not None
        return self._ensemble.isa

    @property
    def max_problems(self) -> int:
        """Problems of one search whose candidates and returns fit into memory; more are planned in turns."""
        config = self._config
        floats = config.population * (config.horizon * self._action_size + self._particles)
        if config.needs_states:
            floats += config.population * self._particles * (config.horizon + 1) * len(self.state_scale)
        return max(1, _MAX_FLOATS // floats)

    @property
    def members(self) -> int:
        """K."""
        assert self._ensemble is not None
        return self._ensemble.num_members

    @property
    def state_scale(self) -> NDArray[np.float32]:
        """[S] 1 / the standard deviation of the states in training."""
        assert self._ensemble is not None
        return self._scale

    def update(self, weights: Weights) -> None:
        """Replaces the weights; on an error the old ones stay.

        Raises:
            ValueError: The record is inconsistent or of other actions, or particles is no multiple of the members.
        """
        config = self._config
        ensemble = Ensemble(weights, precision=config.precision, isa=self._isa, threads=config.threads)
        if ensemble.action_size != self._action_size:
            raise ValueError(f"the ensemble takes {ensemble.action_size} actions, the box has {self._action_size}")
        particles = config.particles or ensemble.num_members
        if particles % ensemble.num_members:
            raise ValueError(f"planner particles {particles} must be a multiple of the {ensemble.num_members} members")
        check_part(config.risk.part, particles, ensemble.num_members)
        self._ensemble, self._particles = ensemble, particles
        self._scale = np.array(weights["input_scale"][: ensemble.state_size], np.float32)

    def rollouts(
        self, observation: NDArray[np.float32], actions: NDArray[np.float32], seeds: NDArray[np.uint64]
    ) -> Rollouts:
        """Particle returns [B, N, P] and states [B, N, P, H, S] after each of the actions [B, N, H, A]."""
        returns, states = self._rollout(observation, actions, seeds, states=True)
        return Rollouts(returns, states[..., 1:, :])

    def __call__(
        self, observation: NDArray[np.float32], actions: NDArray[np.float32], seeds: NDArray[np.uint64]
    ) -> NDArray[np.float32]:
        """Particle returns [B, N, P] of actions [B, N, H, A] from the states [B, S]."""
        return self._rollout(observation, actions, seeds, states=False)  # type: ignore[no-any-return]

    def _rollout(
        self, observation: NDArray[np.float32], actions: NDArray[np.float32], seeds: NDArray[np.uint64], states: bool
    ) -> Any:
        config = self._config
        assert self._ensemble is not None
        return self._ensemble.rollout(  # type: ignore[call-overload]
            np.ascontiguousarray(observation, np.float32),
            np.ascontiguousarray(actions),
            seeds,
            particles=self._particles,
            propagation=config.propagation,
            gamma=config.gamma,
            sample=config.sample,
            states=states,
        )


class EnsembleModel:
    """An MLP ensemble as planners search it; see planners.base.Plannable. What it gives them has the newest weights.

    Args:
        low: [A] lower bounds of the action.
        high: [A] upper bounds.
    """

    def __init__(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        self._low, self._high = low, high
        self._evaluators: list[EnsembleEvaluator] = []
        self._trees: list[EnsembleTreeModel] = []

    @property
    def max_problems(self) -> int:
        """See EnsembleEvaluator; trees are small."""
        return min((evaluator.max_problems for evaluator in self._evaluators), default=_MAX_FLOATS)

    def update(self, weights: Weights) -> None:
        """Replaces the weights; see EnsembleEvaluator."""
        for evaluator in self._evaluators:
            evaluator.update(weights)
        for tree in self._trees:
            tree.update(weights)

    def evaluator(self, config: SequenceConfig) -> EnsembleEvaluator:
        """What scores sequences of actions; it waits for the next update.

        Raises:
            ValueError: The constraint needs what an ensemble does not predict.
        """
        if config.constraint is not None and isinstance(config.constraint.signal, Cost):
            raise ValueError("planner.constraint.signal cost needs a model that predicts cost, which ensembles do not")
        self._evaluators.append(EnsembleEvaluator(config, len(self._low)))
        return self._evaluators[-1]

    def tree(self, config: MctsConfig) -> EnsembleTreeModel:
        """What a tree search expands; it waits for the next update.

        Raises:
            ValueError: See EnsembleTreeModel.
        """
        from planners.ensemble_tree import EnsembleTreeModel

        self._trees.append(EnsembleTreeModel(config, self._low, self._high))
        return self._trees[-1]
