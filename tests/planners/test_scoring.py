"""TorchEvaluator on a point mass whose returns are known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from planners.config import CemConfig
from planners.sampling import SamplingPlanner
from planners.scoring import TorchEvaluator


class PointMass:
    """Position += action; reward -position^2 - particle; continuation 0.5; value proportional to the position."""

    num_particles = 2

    def __init__(self, noise: float = 0.0, value: float = 0.0) -> None:
        self.rows: list[int] = []
        self.num_draws = 3 if noise else 0
        self._noise, self._value = noise, value

    def initial(self, observation: Any, num_candidates: int) -> torch.Tensor:
        return torch.as_tensor(observation).repeat_interleave(num_candidates * self.num_particles, dim=0)

    def step(
        self, latent: torch.Tensor, action: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.rows.append(len(latent))
        problems = len(noise)
        assert noise.shape == (problems, 2, self.num_draws)
        assert ((noise >= 0.0) & (noise < 1.0)).all()
        shared = (noise.sum(-1) - 0.5 * self.num_draws)[:, None].expand(-1, len(latent) // (2 * problems), -1)
        position = latent + action + self._noise * shared.reshape(-1, 1)
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


def test_a_problems_noise_is_its_own_in_any_batch_and_shared_by_its_candidates() -> None:
    actions = np.random.default_rng(0).standard_normal((5, 7, 4, 1)).astype(np.float32)
    observation = np.random.default_rng(1).standard_normal((5, 1)).astype(np.float32)
    seeds = np.array([5, 9, 2**64 - 1, 0, 5], np.uint64)
    together = TorchEvaluator(PointMass(noise=1.0))(observation, actions, seeds)
    for rows in (slice(0, 1), slice(2, 5), np.array([3, 1])):
        for max_rows in (1 << 20, 4):
            alone = TorchEvaluator(PointMass(noise=1.0), max_rows=max_rows)(
                observation[rows], actions[rows], seeds[rows]
            )
            np.testing.assert_array_equal(alone, together[rows])
    same = TorchEvaluator(PointMass(noise=1.0))(observation, np.repeat(actions[:, :1], 7, axis=1), seeds)
    np.testing.assert_array_equal(same, np.repeat(same[:, :1], 7, axis=1))


def test_noise_is_uniform_and_independent_over_steps_particles_and_problems() -> None:
    seen: list[torch.Tensor] = []

    class Listening(PointMass):
        def step(
            self, latent: torch.Tensor, action: torch.Tensor, noise: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            seen.append(noise)
            return super().step(latent, action, noise)

    count = 4000
    TorchEvaluator(Listening(noise=1.0))(
        np.zeros((count, 1), np.float32), np.zeros((count, 1, 3, 1), np.float32), np.arange(count, dtype=np.uint64)
    )
    noise = torch.stack(seen, dim=1).reshape(count, -1).double().numpy()  # 3 steps x 2 particles x 3 draws
    np.testing.assert_allclose(noise.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(noise.std(axis=0), np.sqrt(1 / 12), rtol=0.03)
    correlation = np.corrcoef(noise.T)
    assert np.abs(correlation - np.eye(18)).max() < 0.07
    assert np.abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.07


def test_another_seed_gives_other_returns_of_its_problem_only() -> None:
    evaluate, actions = TorchEvaluator(PointMass(noise=1.0)), ACTIONS.astype(np.float32)
    before = torch.get_rng_state()
    one, two = evaluate(OBSERVATION, actions, SEEDS), evaluate(OBSERVATION, actions, np.array([6, 9], np.uint64))
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.isclose(one[0], two[0]).any()
    np.testing.assert_array_equal(one[1], two[1])


def test_the_search_drives_a_torch_model() -> None:
    config = CemConfig(horizon=2, population=200, elites=20, iterations=6)
    planner = SamplingPlanner(config, np.array([-1.0]), np.array([1.0]), TorchEvaluator(PointMass()))
    observation = np.array([[0.5], [-0.25]], np.float32)
    plan, _ = planner.plan(
        observation, planner.initial(np.array([1, 2], np.uint64)), np.ones(2, np.bool_), explore=False
    )
    np.testing.assert_allclose(plan.actions[:, :, 0], [[-0.5, 0.0], [0.25, 0.0]], atol=0.1)


def test_max_rows_must_hold_the_particles() -> None:
    with pytest.raises(ValueError, match="max_rows"):
        TorchEvaluator(PointMass(), max_rows=1)
