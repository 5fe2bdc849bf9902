"""The one planning loop: search asks, a model evaluates, an objective scores, search is told.

Letters: B problems, N candidates, H horizon, A action size, P particles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import Search
from planners.base import Evaluator, Objective, SequencePlan
from planners.config import (
    CemConfig,
    EliteConfig,
    GaussianConfig,
    IcemConfig,
    MppiConfig,
    RandomShootingConfig,
    SequenceConfig,
)
from planners.objectives import make_objective


@dataclass(frozen=True)
class SamplingCarry:
    """What a sampling planner remembers; see planners.base.Planner."""

    mean: NDArray[np.float32]  # [B, H, A] mean actions of the last plan, already shifted by one step
    elites: NDArray[np.float32]  # [B, E, H, A] elites kept for the next plan, already shifted; E may be 0
    has_elites: NDArray[np.bool_]  # [B]
    seed: NDArray[np.uint64]  # [B] root of the problem's random numbers
    step: NDArray[np.int64]  # [B] steps taken so far with this seed


def make_search(config: SequenceConfig, low: NDArray[np.float32], high: NDArray[np.float32]) -> Search:
    """The native search that `config` describes, in the box [low, high] of shape [A].

    Raises:
        ValueError: The box is empty or unbounded, or the population is too small.
    """
    options: dict[str, Any] = {"iterations": 1, "elites": 1, "momentum": 0.0}
    if isinstance(config, GaussianConfig):
        options |= {"iterations": config.iterations, "init_std": config.init_std, "warm_start": config.warm_start}
    if isinstance(config, EliteConfig):
        options |= {"elites": config.elites, "momentum": config.momentum, "min_std": config.min_std}
        options |= {"execute_best": config.execute == "best"}
    match config:
        case IcemConfig():
            options |= {
                "noise_beta": config.noise_beta,
                "population_decay": config.population_decay,
                "keep_fraction": config.keep_fraction,
                "include_mean": True,
            }
        case CemConfig():
            options |= {"sampling": "truncated" if config.truncate else "gaussian"}
        case MppiConfig():
            options |= {
                "elites": config.population,
                "weighting": "softmax",
                "temperature": config.temperature,
                "update_std": False,
            }
        case RandomShootingConfig():
            options |= {"sampling": "uniform", "execute_best": True}
    return Search(_row(low), _row(high), horizon=config.horizon, population=config.population, **options)


class SamplingPlanner:
    """Plans with any evaluator; see planners.base.Planner.

    With an evaluator that treats problems independently, so does the planner: a problem's plan depends on its
    observation and carry only.

    Args:
        config: The search and the objective.
        low: [A] lower bounds of the action.
        high: [A] upper bounds of the action.
        evaluate: Particle returns of candidates.
        objective: Score of particle returns; None builds the configured one.

    Raises:
        ValueError: The box is empty or unbounded, or the population is too small.
    """

    def __init__(
        self,
        config: SequenceConfig,
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        evaluate: Evaluator,
        objective: Objective | None = None,
    ) -> None:
        self.config = config
        self._low, self._high = _row(low), _row(high)
        self._search = make_search(config, low, high)
        self._iterations = config.iterations if isinstance(config, GaussianConfig) else 1
        self._evaluate = evaluate
        self._objective = objective or make_objective(config.objective, config.risk_lambda)

    def initial(self, seeds: NDArray[np.uint64]) -> SamplingCarry:
        """The carry of len(seeds) problems before their first plan."""
        problems, shape = len(seeds), (self.config.horizon, len(self._low))
        return SamplingCarry(
            mean=np.broadcast_to(np.float32(0.5) * (self._low + self._high), (problems, *shape)).copy(),
            elites=np.zeros((problems, self._search.num_kept, *shape), np.float32),
            has_elites=np.zeros(problems, np.bool_),
            seed=np.array(seeds, np.uint64),
            step=np.zeros(problems, np.int64),
        )

    def skip(self, carry: SamplingCarry) -> SamplingCarry:
        """The next carry where a step is taken without a plan: the elites do not fit it any more."""
        return replace(carry, has_elites=np.zeros_like(carry.has_elites), step=carry.step + 1)

    def plan(
        self, observation: Any, carry: SamplingCarry, is_first: NDArray[np.bool_], explore: bool
    ) -> tuple[SequencePlan, SamplingCarry]:
        """Plans for the B rows of `observation`; rows with `is_first` forget their last plan.

        `explore` changes nothing: the candidates' noise is how the search optimises, in evaluations too.
        The predicted return is that of the executed sequence, evaluated once more with fresh noise: a maximum over
        candidates would be optimistic.

        Raises:
            ValueError: Shapes do not fit the configuration.
        """
        state = self._search.begin(
            mean=np.ascontiguousarray(carry.mean, np.float32),
            elites=np.ascontiguousarray(carry.elites, np.float32),
            has_elites=np.ascontiguousarray(carry.has_elites, np.bool_),
            seed=np.ascontiguousarray(carry.seed, np.uint64),
            step=np.ascontiguousarray(carry.step, np.int64),
            is_first=np.ascontiguousarray(is_first, np.bool_),
        )
        for _ in range(self._iterations):
            actions = state.ask()
            returns = self._evaluate(observation, actions, state.noise_seeds())
            state.tell(np.ascontiguousarray(self._objective(returns), np.float32))
        actions, mean, elites, has_elites, step = state.finish()
        returns = self._evaluate(observation, actions[:, None], state.noise_seeds())[:, 0]
        plan = SequencePlan(
            action=actions[:, 0].copy(),
            actions=actions,
            return_mean=np.mean(returns, axis=-1, dtype=np.float32),
            return_variance=np.var(returns, axis=-1, dtype=np.float32),
        )
        return plan, SamplingCarry(mean, elites, has_elites, np.array(carry.seed, np.uint64), step)


def uniform_actions(
    low: NDArray[np.float32], high: NDArray[np.float32], seed: NDArray[np.uint64], step: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Actions [B, A] uniform in the box [low, high] of shape [A], a function of each row's seed [B] and step [B].

    What an actor executes before there is a model to plan with.
    """
    search = Search(_row(low), _row(high), horizon=1, population=1, elites=1, iterations=1, sampling="uniform")
    problems, size = len(seed), len(_row(low))
    mean, elites = np.zeros((problems, 1, size), np.float32), np.zeros((problems, 0, 1, size), np.float32)
    state = search.begin(mean, elites, np.zeros(problems, np.bool_), seed, step, np.ones(problems, np.bool_))
    return state.ask()[:, 0, 0].copy()


def _row(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32).reshape(-1)
