"""Tree search over a latent model: the native search names leaves, the model evaluates them in one batch.

Letters: B problems, S simulations, N actions of a node, A action size.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from native import Mcts
from planners.base import Plan, PlannerCarry, TreeModel
from planners.config import PlannerConfig
from planners.sampling import initial_carry


class TreePlanner:
    """Plans with a TreeModel; see planners.base.Planner.

    A problem's tree depends on its state, seed and step alone, up to how the model rounds in batches.

    Args:
        config: The search, the discount and the threads.
        action_size: A.
        model: The model; its tensors live on `device`.
        device: Where the model computes.
    """

    def __init__(self, config: PlannerConfig, action_size: int, model: TreeModel, device: str = "cpu") -> None:
        self.config = config
        self._model, self._device, self._action_size = model, torch.device(device), action_size
        options = asdict(config.tree)
        del options["sampled_actions"]  # the model's
        self._search = Mcts(num_actions=model.num_actions, threads=config.threads, **options)

    def initial(self, seeds: NDArray[np.uint64]) -> PlannerCarry:
        """The carry of len(seeds) problems before their first plan; a tree is not kept from step to step."""
        box = np.ones(self._action_size, np.float32)
        return initial_carry(1, 0, -box, box, seeds)

    @torch.no_grad()
    def plan(self, observation: Any, carry: PlannerCarry, is_first: NDArray[np.bool_]) -> tuple[Plan, PlannerCarry]:
        """The best actions in the B latent states `observation`.

        The predicted return is the root's mean value, its variance that of the root's action values over the visits.
        """
        search, model = self._search, self._model
        seeds, noise = self._draw(carry)
        rows = torch.arange(len(seeds), device=self._device)
        latent, found = observation, model.expand(observation, noise[0])
        latents = [part.new_empty(len(noise), *part.shape) for part in latent]
        actions = found.actions.new_empty(len(noise), *found.actions.shape)
        parent, action = search.begin(_floats(found.logits), _floats(found.value), seeds)
        for node in range(1, len(noise)):
            for parts, part in zip((*latents, actions), (*latent, found.actions), strict=True):
                parts[node - 1] = part
            above = torch.from_numpy(parent).to(self._device)
            taken = actions[above, rows, torch.from_numpy(action).to(self._device)]
            before = type(latent)(*(parts[above, rows] for parts in latents))
            latent, reward, continuation = model.step(before, taken, noise[node])
            found = model.expand(latent, noise[node])
            discount = self.config.gamma * continuation
            search.expand(_floats(found.logits), _floats(found.value), _floats(reward), _floats(discount))
        chosen = torch.from_numpy(search.policy()[1]).to(self._device)
        best = _floats(actions[0, rows, chosen])
        visits, q, value = search.root()
        return Plan(best, best[:, None], value, _variance(visits, q)), PlannerCarry(
            carry.mean, carry.elites, carry.has_elites, carry.seed, carry.step + 1
        )

    def _draw(self, carry: PlannerCarry) -> tuple[NDArray[np.uint64], Tensor]:
        """Seeds [B] of the search and uniform noise [S + 1, B, draws] of the model, each row's own in any batch."""
        shape = self.config.tree.simulations + 1, self._model.num_draws
        seeds, noise = np.empty(len(carry.seed), np.uint64), np.empty((shape[0], len(carry.seed), shape[1]), np.float32)
        for row, key in enumerate(zip(carry.seed, carry.step.astype(np.uint64), strict=True)):
            rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
            seeds[row] = rng.integers(2**64, dtype=np.uint64)
            noise[:, row] = rng.random(shape, np.float32)
        return seeds, torch.from_numpy(noise).to(self._device)


def _variance(visits: NDArray[np.int32], q: NDArray[np.float32]) -> NDArray[np.float32]:
    """Variance [B] of Q values [B, N], weighted by visits [B, N]."""
    shares = visits / visits.sum(-1, keepdims=True)
    known = np.where(visits > 0, q, 0.0)
    mean = (shares * known).sum(-1, keepdims=True)
    return (shares * (known - mean) ** 2).sum(-1).astype(np.float32)  # type: ignore[no-any-return]


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().contiguous().cpu().numpy()
    return array
