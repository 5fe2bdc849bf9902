"""Tree search over a latent model: the native search names leaves, the model evaluates them in one batch.

Letters: B problems, S simulations, N actions of a node, A action size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from native import Mcts
from planners.base import TreeModel, TreePlan
from planners.config import MctsConfig


@dataclass(frozen=True)
class TreeCarry:
    """What a tree search remembers: no tree, only where each problem's random numbers stand."""

    seed: NDArray[np.uint64]  # [B] root of the problem's random numbers
    step: NDArray[np.int64]  # [B] plans made so far with this seed


class TreePlanner:
    """Plans with a TreeModel; see planners.base.Planner.

    A problem's tree depends on its state, seed and step alone, up to how the model rounds in batches.

    Args:
        config: The search, the discount and the threads.
        model: The model; it computes where the latents are.
    """

    def __init__(self, config: MctsConfig, model: TreeModel) -> None:
        self.config = config
        self._model = model
        quiet = replace(config, dirichlet_fraction=0.0, gumbel_scale=0.0)
        self._searches = {True: _make_search(config, model.num_actions), False: _make_search(quiet, model.num_actions)}

    def initial(self, seeds: NDArray[np.uint64]) -> TreeCarry:
        """The carry of len(seeds) problems before their first plan."""
        return TreeCarry(np.array(seeds, np.uint64), np.zeros(len(seeds), np.int64))

    def skip(self, carry: TreeCarry) -> TreeCarry:
        """The next carry where a step is taken without a plan."""
        return replace(carry, step=carry.step + 1)

    @torch.no_grad()
    def plan(
        self, observation: Any, carry: TreeCarry, is_first: NDArray[np.bool_], explore: bool
    ) -> tuple[TreePlan, TreeCarry]:
        """The best actions in the B latent states `observation`.

        Only where `explore` is set does the configured noise disturb the root (Dirichlet's on its prior, Gumbel's on
        its logits). The model's own noise, of its transitions and its sampled actions, is a function of seed and step
        in both cases.
        """
        search, model, device = self._searches[explore], self._model, observation[0].device
        seeds, noise = self._draw(carry, device)
        rows = torch.arange(len(seeds), device=device)
        latent, found = observation, model.expand(observation, noise[0])
        latents = [part.new_empty(len(noise), *part.shape) for part in latent]
        actions = found.actions.new_empty(len(noise), *found.actions.shape)
        depth = np.zeros((len(noise), len(seeds)), np.int32)
        parent, action = search.begin(_floats(found.logits), _floats(found.value), seeds)
        for node in range(1, len(noise)):
            for parts, part in zip((*latents, actions), (*latent, found.actions), strict=True):
                parts[node - 1] = part
            depth[node] = np.take_along_axis(depth, parent[None], axis=0) + 1
            above = torch.from_numpy(parent).to(device)
            taken = actions[above, rows, torch.from_numpy(action).to(device)]
            before = type(latent)(*(parts[above, rows] for parts in latents))
            latent, reward, continuation = model.step(before, taken, noise[node])
            found = model.expand(latent, noise[node])
            discount = self.config.gamma * continuation
            search.expand(_floats(found.logits), _floats(found.value), _floats(reward), _floats(discount))
        weights, best = search.policy()
        visits, q, value = search.root()
        searched = _floats(actions[0])
        plan = TreePlan(
            action=searched[np.arange(len(best)), best],
            return_mean=value,
            return_variance=_variance(visits, q),
            actions=searched,
            weights=weights,
            visits=visits,
            depth=depth.max(axis=0),
        )
        return plan, self.skip(carry)

    def _draw(self, carry: TreeCarry, device: torch.device) -> tuple[NDArray[np.uint64], Tensor]:
        """Seeds [B] of the search and uniform noise [S + 1, B, draws] of the model, each row's own in any batch."""
        shape = self.config.simulations + 1, self._model.num_draws
        seeds, noise = np.empty(len(carry.seed), np.uint64), np.empty((shape[0], len(carry.seed), shape[1]), np.float32)
        for row, key in enumerate(zip(carry.seed, carry.step.astype(np.uint64), strict=True)):
            rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
            seeds[row] = rng.integers(2**64, dtype=np.uint64)
            noise[:, row] = rng.random(shape, np.float32)
        return seeds, torch.from_numpy(noise).to(device)


def _make_search(config: MctsConfig, num_actions: int) -> Mcts:
    others = {"method", "gamma", "sampled_actions"}  # the planner's, and the model's
    options = {name: value for name, value in asdict(config).items() if name not in others}
    return Mcts(num_actions=num_actions, **options)


def _variance(visits: NDArray[np.int32], q: NDArray[np.float32]) -> NDArray[np.float32]:
    """Variance [B] of Q values [B, N], weighted by visits [B, N]."""
    shares = visits / visits.sum(-1, keepdims=True)
    known = np.where(visits > 0, q, 0.0)
    mean = (shares * known).sum(-1, keepdims=True)
    return (shares * (known - mean) ** 2).sum(-1).astype(np.float32)  # type: ignore[no-any-return]


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().contiguous().cpu().numpy()
    return array
