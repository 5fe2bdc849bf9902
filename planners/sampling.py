"""The one planning loop: search asks, a model evaluates, a judge scores, search is told.

Letters: B problems, N candidates, H horizon, A action size, P particles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from native import Search
from planners.base import Evaluator, Objective, SequencePlan
from planners.candidates import Judge, Judged
from planners.config import (
    CemConfig,
    EliteConfig,
    GaussianConfig,
    IcemConfig,
    MppiConfig,
    RandomShootingConfig,
    SequenceConfig,
)
from planners.risk import variance_parts


@dataclass(frozen=True)
class SamplingCarry:
    """What a sampling planner remembers; see planners.base.Planner."""

    mean: NDArray[np.float32]  # [B, H, A] mean actions of the last plan, already shifted by one step
    elites: NDArray[np.float32]  # [B, E, H, A] elites kept for the next plan, already shifted; E may be 0
    has_elites: NDArray[np.bool_]  # [B]
    seed: NDArray[np.uint64]  # [B] root of the problem's random numbers
    step: NDArray[np.int64]  # [B] steps taken so far with this seed
    last: NDArray[np.float32]  # [B, A] action of the last plan, NaN where there was none


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
        config: The search and what scores its candidates.
        low: [A] lower bounds of the action.
        high: [A] upper bounds of the action.
        evaluate: Particle returns of candidates.
        objective: Score of particle returns; None takes the configured risk measure.
        rescore: Evaluates the best candidates once more, with the configured `rescore_particles`.

    Raises:
        ValueError: The box is empty or unbounded, the population is too small, or the fallback is no action.
    """

    def __init__(
        self,
        config: SequenceConfig,
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        evaluate: Evaluator,
        objective: Objective | None = None,
        rescore: Evaluator | None = None,
    ) -> None:
        self.config = config
        self._low, self._high = _row(low), _row(high)
        self._search = make_search(config, low, high)
        self._iterations = config.iterations if isinstance(config, GaussianConfig) else 1
        half_width = np.float32(0.5) * (self._high - self._low)
        self._judge = Judge(config, evaluate, half_width, objective)
        self._rejudge = None if rescore is None else Judge(config, rescore, half_width, objective)
        self._fallback = self._checked_fallback()

    def initial(self, seeds: NDArray[np.uint64]) -> SamplingCarry:
        """The carry of len(seeds) problems before their first plan."""
        problems, shape = len(seeds), (self.config.horizon, len(self._low))
        return SamplingCarry(
            mean=np.broadcast_to(np.float32(0.5) * (self._low + self._high), (problems, *shape)).copy(),
            elites=np.zeros((problems, self._search.num_kept, *shape), np.float32),
            has_elites=np.zeros(problems, np.bool_),
            seed=np.array(seeds, np.uint64),
            step=np.zeros(problems, np.int64),
            last=np.full((problems, len(self._low)), np.nan, np.float32),
        )

    def skip(self, carry: SamplingCarry) -> SamplingCarry:
        """The next carry where a step is taken without a plan: the elites do not fit it any more."""
        last = np.full_like(carry.last, np.nan)
        return replace(carry, has_elites=np.zeros_like(carry.has_elites), step=carry.step + 1, last=last)

    def plan(
        self, observation: Any, carry: SamplingCarry, is_first: NDArray[np.bool_], explore: bool
    ) -> tuple[SequencePlan, SamplingCarry]:
        """Plans for the B rows of `observation`; rows with `is_first` forget their last plan.

        `explore` changes nothing: the candidates' noise is how the search optimises, in evaluations too.
        The predicted return is that of the executed sequence, evaluated once more with fresh noise: a maximum over
        candidates would be optimistic. Under a constraint the best candidate is evaluated with it, and replaces it
        where it alone is feasible; where neither is, the fallback acts, or what violates least.

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
        last = np.where(np.asarray(is_first)[:, None], np.float32(np.nan), carry.last)
        for _ in range(self._iterations):
            scores, excess = self._scores(observation, state.ask(), state.noise_seeds(), last)
            state.tell(scores, excess)
        actions, mean, elites, has_elites, step = state.finish()
        finalists = actions[:, None]
        if self.config.constraint is not None:
            finalists = np.stack([actions, state.best(), *self._fallback_plan(actions)], axis=1)
        judged = (self._rejudge or self._judge)(observation, finalists, state.noise_seeds(), last)
        chosen = self._choose(judged)
        rows = np.arange(len(chosen))
        actions, returns = finalists[rows, chosen], judged.returns[rows, chosen]
        plan = SequencePlan(
            action=actions[:, 0].copy(),
            actions=actions,
            return_mean=np.mean(returns, axis=-1, dtype=np.float32),
            return_variance=np.var(returns, axis=-1, dtype=np.float32),
            details=self._details(judged, chosen),
        )
        return plan, SamplingCarry(mean, elites, has_elites, np.array(carry.seed, np.uint64), step, plan.action.copy())

    def _scores(
        self, observation: Any, actions: NDArray[np.float32], seeds: NDArray[np.uint64], last: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores and violations [B, N]; with a second stage the scores of all that is not in it are NaN."""
        judged = self._judge(observation, actions, seeds, last)
        if self._rejudge is None:
            return judged.scores, judged.excess
        assert isinstance(self.config, EliteConfig)
        order = judged.order(2 * self.config.elites)
        best = np.take_along_axis(actions, order[..., None, None], axis=1)
        again = self._rejudge(observation, best, seeds, last)
        scores = np.full_like(judged.scores, np.nan)
        np.put_along_axis(scores, order, again.scores, axis=1)
        if again.excess is None:
            return scores, None
        excess = np.full_like(judged.scores, np.nan)
        np.put_along_axis(excess, order, again.excess, axis=1)
        return scores, excess

    def _choose(self, judged: Judged) -> NDArray[np.int64]:
        """Which finalist [B] is executed: the plan, the best candidate, or the fallback where neither is feasible."""
        excess = judged.excess
        if excess is None:
            return np.zeros(len(judged.scores), np.int64)
        excess = np.where(np.isfinite(excess), excess, np.float32(np.inf))
        plans = excess[:, :2]
        least: NDArray[np.int64] = plans.argmin(axis=1)  # the plan itself where they are alike
        if not len(self._fallback):
            return least
        return np.where(plans.min(axis=1) > 0.0, 2, least)

    def _details(self, judged: Judged, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """What is worth logging of the executed plans, name -> [B]."""
        rows = np.arange(len(chosen))
        details: dict[str, NDArray[np.float32]] = {}
        if self.config.risk.measure != "mean" and self._judge.members > 1:
            members = (self._rejudge or self._judge).members
            epistemic, aleatoric = variance_parts(judged.returns[rows, chosen], members)
            details |= {"return_epistemic": epistemic, "return_aleatoric": aleatoric}
        if judged.disagreement is not None:
            details["disagreement"] = judged.disagreement[rows, chosen]
        if judged.verdict is not None:
            excess = judged.verdict.excess[rows]
            flagged = ~(np.nan_to_num(excess[:, :2], nan=np.inf).min(axis=1) <= 0.0)
            details["violation_flagged"] = flagged.astype(np.float32)
            details["violation_probability"] = judged.verdict.probability[rows, chosen]
            details["violation_step"] = judged.verdict.first_step[rows, chosen]
            details["fallback"] = (chosen == 2).astype(np.float32)
        return details

    def _fallback_plan(self, like: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The fallback held over the horizon [B, H, A], if there is one."""
        return [np.broadcast_to(self._fallback, like.shape)] if len(self._fallback) else []

    def _checked_fallback(self) -> NDArray[np.float32]:
        constraint = self.config.constraint
        action = np.array(constraint.fallback if constraint else (), np.float32)
        if not len(action):
            return action
        if len(action) != len(self._low) or (action < self._low).any() or (action > self._high).any():
            raise ValueError(
                f"planner.constraint.fallback must be an action of {len(self._low)} numbers from {self._low.tolist()} "
                f"to {self._high.tolist()}, got {action.tolist()}"
            )
        return action


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
