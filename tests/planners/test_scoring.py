"""TorchEvaluator on a point mass whose returns are known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from planners.config import PlannerConfig
from planners.sampling import SamplingPlanner
from planners.scoring import TorchEvaluator


class PointMass:
    """Position += action; reward -position^2 - particle; continuation 0.5; value proportional to the position."""

    num_particles = 2

    def __init__(self, noise: float = 0.0, value: float = 0.0) -> None:
        self.rows: list[int] = []
        self._noise, self._value = noise, value

    def initial(self, observation: Any, num_candidates: int) -> torch.Tensor:
        return torch.as_tensor(observation).repeat_interleave(num_candidates * self.num_particles, dim=0)

    def step(self, latent: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.rows.append(len(latent))
        position = latent + action + self._noise * torch.randn_like(latent)
        particle = torch.arange(len(latent)) % 2
        return position, -position.square().sum(dim=1) - particle, torch.full((len(latent),), 0.5)

    def value(self, latent: torch.Tensor) -> torch.Tensor:
        return self._value * latent.sum(dim=1)


OBSERVATION = np.array([[1.0], [-2.0]], np.float32)
ACTIONS = np.array([[[1, 0], [-1, 1], [0, 0]], [[2, 0], [0, 1], [1, 1]]], np.float64)[..., None]
SEEDS = np.array([5, 9], np.uint64)


@pytest.mark.parametrize(("max_rows", "rows"), [(1 << 20, [12, 12]), (8, [8, 8, 4, 4]), (2, [4] * 6)])
def test_returns_of_a_known_model_in_one_batch_per_step(max_rows: int, rows: list[int]) -> None:
    model = PointMass(value=3.0)
    returns = TorchEvaluator(model, gamma=0.8, max_rows=max_rows)(OBSERVATION, ACTIONS.astype(np.float32), SEEDS)
    first = OBSERVATION[:, None, 0] + ACTIONS[:, :, 0, 0]
    second = first + ACTIONS[:, :, 1, 0]
    expected = np.stack([-(first**2) - p + 0.4 * (-(second**2) - p) + 0.16 * 3.0 * second for p in (0, 1)], axis=-1)
    np.testing.assert_allclose(returns, expected, rtol=1e-6)
    assert returns.dtype == np.float32
    assert model.rows == rows


def test_a_stochastic_model_draws_from_the_seeds_and_leaves_the_generator_alone() -> None:
    evaluate = TorchEvaluator(PointMass(noise=1.0))
    actions = ACTIONS.astype(np.float32)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = evaluate(OBSERVATION, actions, SEEDS)
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(first, evaluate(OBSERVATION, actions, SEEDS))
    assert not np.allclose(first, evaluate(OBSERVATION, actions, SEEDS + np.array([1, 0], np.uint64)))


def test_the_search_drives_a_torch_model() -> None:
    config = PlannerConfig(method="cem", horizon=2, population=200, elites=20, iterations=6)
    planner = SamplingPlanner(config, np.array([-1.0]), np.array([1.0]), TorchEvaluator(PointMass()))
    observation = np.array([[0.5], [-0.25]], np.float32)
    plan, _ = planner.plan(observation, planner.initial(np.array([1, 2], np.uint64)), np.ones(2, np.bool_))
    np.testing.assert_allclose(plan.actions[:, :, 0], [[-0.5, 0.0], [0.25, 0.0]], atol=0.1)


def test_max_rows_must_hold_the_particles() -> None:
    with pytest.raises(ValueError, match="max_rows"):
        TorchEvaluator(PointMass(), max_rows=1)
