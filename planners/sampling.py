"""The one planning loop: search asks, a model evaluates, an objective scores, search is told.

Letters: B problems, N candidates, H horizon, A action size, P particles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import Search
from planners.base import Evaluator, Objective, Plan, PlannerCarry
from planners.config import PlannerConfig
from planners.objectives import make_objective


def make_search(config: PlannerConfig, low: NDArray[np.float32], high: NDArray[np.float32]) -> Search:
    """The native search that `config` describes, in the box [low, high] of shape [A].

    Raises:
        ValueError: The box is empty or unbounded, the population is too small, or the method needs another model.
    """
    options: dict[str, Any] = {
        "horizon": config.horizon,
        "population": config.population,
        "elites": config.elites,
        "iterations": config.iterations,
        "init_std": config.init_std,
        "warm_start": config.warm_start,
    }
    gaussian = {"momentum": config.momentum, "min_std": config.min_std, "execute_best": config.execute == "best"}
    match config.method:
        case "icem":
            options |= gaussian | {
                "noise_beta": config.noise_beta,
                "population_decay": config.population_decay,
                "keep_fraction": config.keep_fraction,
                "include_mean": True,
            }
        case "cem":
            options |= gaussian | {"sampling": "truncated" if config.truncate else "gaussian"}
        case "mppi":
            options |= {
                "elites": config.population,
                "momentum": 0.0,
                "weighting": "softmax",
                "temperature": config.temperature,
                "update_std": False,
            }
        case "random_shooting":
            options |= {"iterations": 1, "elites": 1, "momentum": 0.0, "sampling": "uniform", "execute_best": True}
        case "mcts":
            raise ValueError("planner method mcts needs a model with a policy and a critic, as dreamer_v3 has")
    return Search(_row(low), _row(high), **options)


def initial_carry(
    horizon: int, num_kept: int, low: NDArray[np.float32], high: NDArray[np.float32], seeds: NDArray[np.uint64]
) -> PlannerCarry:
    """The carry of len(seeds) problems before their first plan, with room for `num_kept` elites."""
    problems, shape = len(seeds), (horizon, len(low))
    return PlannerCarry(
        mean=np.broadcast_to(np.float32(0.5) * (low + high), (problems, *shape)).copy(),
        elites=np.zeros((problems, num_kept, *shape), np.float32),
        has_elites=np.zeros(problems, np.bool_),
        seed=np.array(seeds, np.uint64),
        step=np.zeros(problems, np.int64),
    )


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
        config: PlannerConfig,
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        evaluate: Evaluator,
        objective: Objective | None = None,
    ) -> None:
        self.config = config
        self._low, self._high = _row(low), _row(high)
        self._search = make_search(config, low, high)
        self._iterations = 1 if config.method == "random_shooting" else config.iterations
        self._evaluate = evaluate
        self._objective = objective or make_objective(config.objective, config.risk_lambda)

    def initial(self, seeds: NDArray[np.uint64]) -> PlannerCarry:
        """The carry of len(seeds) problems before their first plan."""
        return initial_carry(self.config.horizon, self._search.num_kept, self._low, self._high, seeds)

    def plan(self, observation: Any, carry: PlannerCarry, is_first: NDArray[np.bool_]) -> tuple[Plan, PlannerCarry]:
        """Plans for the B rows of `observation`; rows with `is_first` forget their last plan.

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
        plan = Plan(
            action=actions[:, 0].copy(),
            actions=actions,
            return_mean=np.mean(returns, axis=-1, dtype=np.float32),
            return_variance=np.var(returns, axis=-1, dtype=np.float32),
        )
        return plan, PlannerCarry(mean, elites, has_elites, np.array(carry.seed, np.uint64), step)


def random_plan(
    config: PlannerConfig, low: NDArray[np.float32], high: NDArray[np.float32], carry: PlannerCarry
) -> tuple[Plan, PlannerCarry]:
    """Actions uniform in the box, a function of each row's seed and step; the predicted return is NaN.

    What an actor executes before there is a model.
    """
    search = Search(
        _row(low), _row(high), horizon=config.horizon, population=1, elites=1, iterations=1, sampling="uniform"
    )
    none = np.zeros((len(carry.seed), 0, *carry.mean.shape[1:]), np.float32)
    is_first = np.ones(len(carry.seed), np.bool_)
    state = search.begin(carry.mean, none, carry.has_elites, carry.seed, carry.step, is_first)
    actions = state.ask()[:, 0]
    unknown = np.full(len(actions), np.nan, np.float32)
    return Plan(actions[:, 0].copy(), actions, unknown, unknown.copy()), PlannerCarry(
        carry.mean, carry.elites, np.zeros_like(carry.has_elites), carry.seed, carry.step + 1
    )


def _row(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32).reshape(-1)
