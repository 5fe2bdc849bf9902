"""The guard against exploiting a model: the disagreement of its members along a plan.

Letters: B problems, N candidates, P particles, H horizon, S state size, A action size, K members.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.base import RolloutEvaluator
from planners.constraint_config import GuardConfig

Floats = NDArray[np.float32]


def disagreement(states: Floats, members: int, scale: Floats) -> Floats:
    """Standard deviation over members of their mean states, scaled and averaged over horizon and state.

    Args:
        states: [..., P, H, S] predicted states; particle p is of member p % K.
        members: K.
        scale: [S] 1 / the standard deviation of the states in training.

    Returns:
        [...]; 0 for a single member.
    """
    particles, horizon, size = states.shape[-3:]
    grouped = states.reshape(*states.shape[:-3], particles // members, members, horizon, size)
    spread = grouped.mean(axis=-4, dtype=np.float64).std(axis=-3) * scale
    result: Floats = spread.mean(axis=(-1, -2)).astype(np.float32)
    return result


def penalty(config: GuardConfig, found: Floats) -> Floats:
    """Score lost for a disagreement [...]."""
    result: Floats = np.float32(config.weight) * np.maximum(found - np.float32(config.limit), np.float32(0.0))
    return result


def usual_disagreement(
    evaluate: RolloutEvaluator, observation: Any, actions: Floats, quantile: float = 0.99, seed: int = 0
) -> float:
    """A high quantile of the disagreement over sequences of the training data: what a guard's limit should be.

    Args:
        evaluate: The model, with the particles and the horizon of the planner.
        observation: [B, S] first states of stored sequences.
        actions: [B, H, A] the actions that followed them.
        quantile: Which.
        seed: Of the particles' noise.
    """
    seeds = np.random.SeedSequence(seed).generate_state(len(actions), np.uint64).astype(np.uint64)
    rollouts = evaluate.rollouts(observation, np.ascontiguousarray(actions[:, None]), seeds)
    assert rollouts.states is not None
    found = disagreement(rollouts.states[:, 0], evaluate.members, evaluate.state_scale)
    return float(np.quantile(found, quantile))
