"""How good candidates are: the risk of their returns, less what smoothness and the guard cost, and their violations.

Letters: B problems, N candidates, H horizon, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from planners.base import Evaluator, Objective, RolloutEvaluator, Rollouts
from planners.config import SequenceConfig
from planners.constraint_config import Cost
from planners.constraints import Verdict, judge, margins
from planners.guard import disagreement, penalty
from planners.risk import score

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Judged:
    """Candidates as a search ranks them: feasible ones first, by score, then the others by excess."""

    returns: Floats  # [B, N, P]
    scores: Floats  # [B, N]
    verdict: Verdict | None = None  # [B, N] each
    disagreement: Floats | None = None  # [B, N]

    @property
    def excess(self) -> Floats | None:
        """[B, N] violation of the constraint, None without one."""
        return None if self.verdict is None else self.verdict.excess

    def order(self, count: int) -> NDArray[np.int64]:
        """[B, count] the best candidates, the best one first; those without finite figures last."""
        excess = np.zeros_like(self.scores) if self.excess is None else self.excess
        lost = ~(np.isfinite(self.scores) & np.isfinite(excess))
        keys = (-self.scores, excess, lost)  # the last one counts first; ties stay in order
        return np.lexsort(keys, axis=-1)[:, :count]


class Judge:
    """Scores candidates under a model.

    Args:
        config: Risk, constraint, guard and smoothness.
        evaluate: Particle returns of candidates.
        half_width: [A] of the action box.
        objective: Score of particle returns; None takes the configured risk measure.
    """

    def __init__(
        self,
        config: SequenceConfig,
        evaluate: Evaluator,
        half_width: Floats,
        objective: Objective | None = None,
    ) -> None:
        self._config, self._evaluate, self._objective = config, evaluate, objective
        self._scale = np.divide(1.0, half_width, out=np.zeros_like(half_width), where=half_width > 0.0)

    @property
    def members(self) -> int:
        """K of the model."""
        return int(getattr(self._evaluate, "members", 1))

    def __call__(self, observation: Any, actions: Floats, seeds: NDArray[np.uint64], last: Floats) -> Judged:
        """Judges candidates [B, N, H, A] after the actions `last` [B, A], which are NaN where there was none."""
        config = self._config
        rollouts = self._rollouts(observation, actions, seeds)
        scores = self._objective(rollouts.returns) if self._objective else self._risk(rollouts.returns)
        if config.smoothness > 0.0:
            scores = scores - np.float32(config.smoothness) * roughness(actions, last, self._scale)
        verdict, found = None, None
        if config.constraint is not None:
            verdict = judge(config.constraint, margins(config.constraint.signal, rollouts))
        if config.guard is not None:
            assert rollouts.states is not None
            scale = cast(RolloutEvaluator, self._evaluate).state_scale
            found = disagreement(rollouts.states, self.members, scale)
            scores = scores - penalty(config.guard, found)
        return Judged(rollouts.returns, np.ascontiguousarray(scores, np.float32), verdict, found)

    def _risk(self, returns: Floats) -> Floats:
        return score(self._config.risk, returns, self.members)

    def _rollouts(self, observation: Any, actions: Floats, seeds: NDArray[np.uint64]) -> Rollouts:
        config = self._config
        if config.needs_states or (config.constraint and isinstance(config.constraint.signal, Cost)):
            return cast(RolloutEvaluator, self._evaluate).rollouts(observation, actions, seeds)
        return Rollouts(self._evaluate(observation, actions, seeds))


def roughness(actions: Floats, last: Floats, scale: Floats) -> Floats:
    """Mean squared change [B, N] between successive actions [B, N, H, A], the one from `last` [B, A] included.

    Args:
        actions: Candidates.
        last: What was executed before, NaN where nothing was: that change counts as none.
        scale: [A] 1 / half-width of the box.
    """
    first = actions[:, :, 0] - last[:, None]
    first = np.where(np.isnan(first), np.float32(0.0), first)[:, :, None]
    changes = np.concatenate([first, np.diff(actions, axis=2)], axis=2) * scale
    result: Floats = np.mean((changes * changes).reshape(*actions.shape[:2], -1), axis=-1, dtype=np.float32)
    return result
