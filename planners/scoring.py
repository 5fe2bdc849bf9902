"""Evaluators from torch models: imagine every candidate in one batch per step.

Letters: B problems, N candidates, H horizon, A action size, P particles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from planners.base import PlanningModel, Rollouts
from planners.noise import RandomCarry, RowGenerator


class TorchEvaluator:
    """Evaluates candidates under a PlanningModel (see planners.base.Evaluator).

    The model sees B * N * P rows per step: problem-major, then candidates, then particles. A problem's noise is a
    function of its own seed, so its returns depend on its batch only as far as the model's rounding does.

    Args:
        model: The model; its tensors live on `device`.
        gamma: Discount of predicted rewards.
        device: Where actions go.
        max_rows: Rows that the model steps at once; more candidates are evaluated in chunks.

    Raises:
        ValueError: max_rows is below the model's particles.
    """

    def __init__(self, model: PlanningModel, gamma: float = 1.0, device: str = "cpu", max_rows: int = 1 << 20) -> None:
        if max_rows < model.num_particles:
            raise ValueError(f"max_rows must be at least the {model.num_particles} particles, not {max_rows}")
        self._model = model
        self._gamma = gamma
        self._device = torch.device(device)
        self._max_rows = max_rows

    @property
    def members(self) -> int:
        """K of the model, particle p being of member p % K; 1 unless it says otherwise."""
        return int(getattr(self._model, "num_members", 1))

    @property
    def state_scale(self) -> NDArray[np.float32]:
        """[S] of a model with predicted states, see planners.base.ObservablePlanningModel."""
        return np.asarray(self._model.state_scale, np.float32)  # type: ignore[attr-defined]

    def __call__(
        self, observation: Any, actions: NDArray[np.float32], seeds: NDArray[np.uint64]
    ) -> NDArray[np.float32]:
        """Particle returns [B, N, P] of actions [B, N, H, A].

        sum_h gamma^h prod_{j<h} continuation_j reward_h, and the model's value of the end with the weight it has then.
        """
        return self._evaluate(observation, actions, seeds, paths=False).returns

    def rollouts(self, observation: Any, actions: NDArray[np.float32], seeds: NDArray[np.uint64]) -> Rollouts:
        """Returns with the states, and the costs if the model predicts them, after each action."""
        return self._evaluate(observation, actions, seeds, paths=True)

    @torch.no_grad()
    def _evaluate(
        self, observation: Any, actions: NDArray[np.float32], seeds: NDArray[np.uint64], paths: bool
    ) -> Rollouts:
        problems, candidates = actions.shape[:2]
        sequences = torch.tensor(actions, device=self._device)
        chunk = max(1, self._max_rows // (problems * self._model.num_particles))
        noise = self._noise(seeds, actions.shape[2])
        parts = [
            self._returns(observation, sequences[:, start : start + chunk], noise, paths)
            for start in range(0, candidates, chunk)
        ]
        returns, states, costs = (
            torch.cat(part, dim=1).float().cpu().numpy() if part[0] is not None else None
            for part in zip(*parts, strict=True)
        )
        assert returns is not None
        return Rollouts(returns, states, costs)

    def _noise(self, seeds: NDArray[np.uint64], horizon: int) -> torch.Tensor:
        """[H, B, P, draws] in [0, 1)."""
        particles, draws = self._model.num_particles, self._model.num_draws
        noise, _ = RowGenerator(horizon * particles * draws).uniform(RandomCarry(seeds))
        return torch.from_numpy(noise).to(self._device).view(len(seeds), horizon, particles, draws).transpose(0, 1)

    def _returns(
        self, observation: Any, actions: torch.Tensor, noise: torch.Tensor, paths: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Returns [B, n, P], states [B, n, P, H, S] and costs [B, n, P, H] of actions [B, n, H, A].

        The noise is [H, B, P, draws].
        """
        problems, candidates, horizon, _ = actions.shape
        particles = self._model.num_particles
        rows = actions.reshape(problems * candidates, horizon, -1).repeat_interleave(particles, dim=0)
        latent = self._model.initial(observation, candidates)
        total = torch.zeros(len(rows), device=self._device)
        weight = torch.ones(len(rows), device=self._device)
        states: list[torch.Tensor] = []
        costs: list[torch.Tensor] = []
        for step in range(horizon):
            latent, reward, continuation = self._model.step(latent, rows[:, step], noise[step])
            total = total + weight * reward
            weight = weight * self._gamma * continuation
            if paths and hasattr(self._model, "states"):
                states.append(self._model.states(latent))
            if paths and hasattr(self._model, "costs"):
                costs.append(self._model.costs(latent))
        total += weight * self._model.value(latent)
        shape = (problems, candidates, particles)
        return (
            total.reshape(shape),
            torch.stack(states, dim=1).reshape(*shape, horizon, -1) if states else None,
            torch.stack(costs, dim=1).reshape(*shape, horizon) if costs else None,
        )
