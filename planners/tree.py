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
from torch.nn.functional import one_hot

from native import Mcts
from planners.base import Expansion, TreeModel, TreePlan
from planners.config import MctsConfig
from planners.tree_record import TreeRecord


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

    Attributes:
        training_step: How far training is, for the temperature of the chosen actions.

    Raises:
        ValueError: More ids are to be drawn than there are.
    """

    def __init__(self, config: MctsConfig, model: TreeModel) -> None:
        self.config = config
        self.training_step = 0
        self._model = model
        drawn = config.drawn_ids(model.num_actions) if model.discrete else None
        options = {name: value for name, value in asdict(config).items() if name not in _NOT_OF_THE_SEARCH}
        self._search = Mcts(num_actions=model.num_actions, sampled_actions=drawn or 0, **options)

    def initial(self, seeds: NDArray[np.uint64]) -> TreeCarry:
        """The carry of len(seeds) problems before their first plan."""
        return TreeCarry(np.array(seeds, np.uint64), np.zeros(len(seeds), np.int64))

    def skip(self, carry: TreeCarry) -> TreeCarry:
        """The next carry where a step is taken without a plan."""
        return replace(carry, step=carry.step + 1)

    @torch.no_grad()
    def plan(
        self,
        observation: Any,
        carry: TreeCarry,
        is_first: NDArray[np.bool_],
        explore: bool,
        invalid: NDArray[np.bool_] | None = None,
    ) -> tuple[TreePlan, TreeCarry]:
        """The best actions in the B latent states `observation`.

        Only where `explore` is set does the configured noise disturb the root (Dirichlet's on its prior, Gumbel's on
        its logits) and the temperature the choice. The model's own noise, of its transitions and its sampled actions,
        is a function of seed and step in both cases.

        Args:
            observation: Latent states.
            carry: Seeds and steps.
            is_first: [B], which changes nothing here.
            explore: Whether the plan is for exploring.
            invalid: [B, N] what the environment does not allow, None for nothing.

        Raises:
            ValueError: A state has no valid action, or the model's numbers are not finite; the row is named.
        """
        search, model, device = self._search, self._model, observation[0].device
        seeds, noise, choice = self._draw(carry, device)
        rows = torch.arange(len(seeds), device=device)
        latent, found = observation, model.expand(observation, noise[0])
        latents = [part.new_empty(len(noise), *part.shape) for part in latent]
        samples = None if model.discrete else found.actions.new_empty(len(noise), *found.actions.shape)
        depth = np.zeros((len(noise), len(seeds)), np.int32)
        masked = _either(invalid, _mask(found))
        parent, action = search.begin(_floats(found.logits), _floats(found.value), seeds, masked, explore)
        for node in range(1, len(noise)):
            for parts, part in zip(latents, latent, strict=True):
                parts[node - 1] = part
            depth[node] = np.take_along_axis(depth, parent[None], axis=0) + 1
            above, chosen = torch.from_numpy(parent).to(device), torch.from_numpy(action).to(device)
            if samples is None:
                taken = one_hot(chosen, model.num_actions).float()
            else:
                samples[node - 1] = found.actions
                taken = samples[above, rows, chosen]
            before = type(latent)(*(parts[above, rows] for parts in latents))
            latent, reward, continuation = model.step(before, taken, noise[node])
            found = model.expand(latent, noise[node])
            discount = _floats(self.config.gamma * continuation)
            search.expand(_floats(found.logits), _floats(found.value), _floats(reward), discount, _mask(found))
        ids = search.actions()
        actions = _one_hot(ids, model.num_actions) if samples is None else _floats(samples[0])
        weights, best = search.policy()
        if explore:
            best = _choose(weights, best, self.config.temperature(self.training_step), choice)
        visits, q, value = search.root()
        plan = TreePlan(
            action=actions[np.arange(len(best)), best],
            return_mean=value,
            return_variance=_variance(visits, q),
            actions=actions,
            ids=ids,
            weights=weights,
            visits=visits,
            q=q,
            depth=depth.max(axis=0),
        )
        return plan, self.skip(carry)

    def trees(self) -> list[TreeRecord]:
        """The trees of the last plan, one for each of its problems."""
        parts = [*self._search.nodes(), *self._search.details()]
        ids, (_, best) = self._search.actions(), self._search.policy()
        return [TreeRecord(*(part[row] for part in parts), best=int(ids[row, best[row]])) for row in range(len(best))]

    def _draw(self, carry: TreeCarry, device: torch.device) -> tuple[NDArray[np.uint64], Tensor, NDArray[np.float64]]:
        """Seeds [B] of the search, uniform noise [S + 1, B, draws] of the model and [B] of the choice, by row."""
        shape = self.config.simulations + 1, self._model.num_draws
        seeds, noise = np.empty(len(carry.seed), np.uint64), np.empty((shape[0], len(carry.seed), shape[1]), np.float32)
        choice = np.empty(len(carry.seed))
        for row, key in enumerate(zip(carry.seed, carry.step.astype(np.uint64), strict=True)):
            rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
            seeds[row] = rng.integers(2**64, dtype=np.uint64)
            noise[:, row] = rng.random(shape, np.float32)
            choice[row] = rng.random()
        return seeds, torch.from_numpy(noise).to(device), choice


_NOT_OF_THE_SEARCH = {"method", "gamma", "sampled_actions", "temperatures", "temperature_steps"}


def _choose(
    weights: NDArray[np.float32], best: NDArray[np.int64], temperature: float, uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Places [B] drawn from weights^(1 / temperature) by uniform numbers; the best ones at temperature 0."""
    if temperature == 0.0:
        return best
    logs = np.log(weights, out=np.full(weights.shape, -np.inf), where=weights > 0.0) / temperature
    sums = np.exp(logs - logs.max(axis=-1, keepdims=True)).cumsum(axis=-1)
    return (sums > uniform[:, None] * sums[:, -1:]).argmax(axis=-1)  # type: ignore[no-any-return]


def _one_hot(ids: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """[B, N, size], zeros where there is no id."""
    return (ids[..., None] == np.arange(size)).astype(np.float32)


def _mask(found: Expansion) -> NDArray[np.bool_] | None:
    return None if found.invalid is None else found.invalid.contiguous().cpu().numpy()  # type: ignore[no-any-return]


def _either(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    return one if other is None else other if one is None else one | other


def _variance(visits: NDArray[np.int32], q: NDArray[np.float32]) -> NDArray[np.float32]:
    """Variance [B] of Q values [B, N], weighted by visits [B, N]."""
    shares = visits / visits.sum(-1, keepdims=True)
    known = np.where(visits > 0, q, 0.0)
    mean = (shares * known).sum(-1, keepdims=True)
    return (shares * (known - mean) ** 2).sum(-1).astype(np.float32)  # type: ignore[no-any-return]


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().contiguous().cpu().numpy()
    return array
