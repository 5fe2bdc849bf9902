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
from planners.base import BlankTreeModel, Expansion, RootedTreeModel, TreeModel, TreePlan
from planners.config import MctsConfig
from planners.tree_record import TreeRecord


@dataclass(frozen=True)
class KeptTrees:
    """The last search of each problem, where subtrees are reused."""

    trees: NDArray[np.uint8]  # [B, bytes] of native.Mcts.save
    taken: NDArray[np.int64]  # [B] id of the action that was taken, -1 to start anew
    latents: tuple[NDArray[Any], ...]  # [B, S + 1, ...] of the nodes, the fields of the model's latents


@dataclass(frozen=True)
class TreeCarry:
    """What a tree search remembers: where each problem's random numbers stand, and its last tree if that is reused."""

    seed: NDArray[np.uint64]  # [B] root of the problem's random numbers
    step: NDArray[np.int64]  # [B] plans made so far with this seed
    kept: KeptTrees | None = None


class TreePlanner:
    """Plans with a TreeModel; see planners.base.Planner.

    A problem's tree depends on its state, seed and step alone, up to how the model rounds in batches.

    Args:
        config: The search, the discount and the threads.
        model: The model; it computes where the latents are.

    Attributes:
        training_step: How far training is, for the temperature of the chosen actions.

    Raises:
        ValueError: More ids are to be drawn than there are, or subtrees are to be reused and the model samples actions
            or does not say what its latents look like.
    """

    def __init__(self, config: MctsConfig, model: TreeModel) -> None:
        self.config = config
        self.training_step = 0
        self._model = model
        if config.reuse_subtree and not (model.discrete and isinstance(model, BlankTreeModel)):
            raise ValueError("reuse_subtree needs a model whose actions are ids and which has blank latents")
        drawn = config.drawn_ids(model.num_actions) if model.discrete else None
        options = {name: value for name, value in asdict(config).items() if name not in _NOT_OF_THE_SEARCH}
        self._search = Mcts(num_actions=model.num_actions, sampled_actions=drawn or 0, **options)

    def initial(self, seeds: NDArray[np.uint64]) -> TreeCarry:
        """The carry of len(seeds) problems before their first plan."""
        rows = len(seeds)
        carry = TreeCarry(np.array(seeds, np.uint64), np.zeros(rows, np.int64))
        if not self.config.reuse_subtree:
            return carry
        assert isinstance(self._model, BlankTreeModel)
        nodes = self.config.simulations + 1
        blank = [_array(part) for part in self._model.blank(1)]
        latents = tuple(np.zeros((rows, nodes, *part.shape[1:]), part.dtype) for part in blank)
        trees = np.zeros((rows, self._search.tree_size), np.uint8)
        return replace(carry, kept=KeptTrees(trees, np.full(rows, -1, np.int64), latents))

    def took(self, carry: TreeCarry, ids: NDArray[np.int64]) -> TreeCarry:
        """The carry where not the plan's actions are executed, but these ids [B]."""
        if carry.kept is not None:
            return replace(carry, kept=replace(carry.kept, taken=np.array(ids, np.int64)))
        return carry

    def skip(self, carry: TreeCarry) -> TreeCarry:
        """The next carry where a step is taken without a plan."""
        return replace(self.took(carry, np.full(len(carry.step), -1)), step=carry.step + 1)

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
            observation: Latent states, or what a `RootedTreeModel` makes them from.
            carry: Seeds and steps.
            is_first: [B] rows whose subtrees are not reused.
            explore: Whether the plan is for exploring.
            invalid: [B, N] what the environment does not allow, None for nothing.

        Raises:
            ValueError: A state has no valid action, or the model's numbers are not finite; the row is named.
        """
        search, model = self._search, self._model
        seeds, noise, choice = self._draw(carry)
        if isinstance(model, RootedTreeModel):
            observation = model.root(observation, seeds)
        device = observation[0].device
        noise = noise.to(device)
        latent, found = observation, model.expand(observation, noise[0])
        states = _States(latent, len(noise))
        samples = None if model.discrete else _States((found.actions,), len(noise))
        root = _floats(found.logits), _floats(found.value), seeds
        masked = _either(invalid, _mask(found))
        if carry.kept is not None:
            taken = np.where(is_first, -1, carry.kept.taken)
            parent, action, origin, limit = search.begin_kept(*root, carry.kept.trees, taken, masked, explore)
            states.restore(carry.kept.latents, origin, limit)
        else:
            parent, action = search.begin(*root, masked, explore)
        for simulation in range(1, len(noise)):
            states.put(simulation - 1, latent)
            above, chosen = torch.from_numpy(parent).to(device), torch.from_numpy(action).to(device)
            if samples is None:
                act = one_hot(chosen, model.num_actions).float()
            else:
                samples.put(simulation - 1, (found.actions,))
                act = samples.get(above)[0][states.rows, chosen]
            latent, reward, continuation = model.step(type(latent)(*states.get(above)), act, noise[simulation])
            found = model.expand(latent, noise[simulation])
            discount = _floats(self.config.gamma * continuation)
            search.expand(_floats(found.logits), _floats(found.value), _floats(reward), discount, _mask(found))
            if search.done:
                states.put(simulation, latent)
                break
        ids = search.actions()
        actions = _one_hot(ids, model.num_actions) if samples is None else _floats(samples.parts[0][0])
        weights, best = search.policy()
        if explore:
            best = _choose(weights, best, self.config.temperature_at(self.training_step), choice)
        visits, q, value = search.root()
        rows = np.arange(len(best))
        plan = TreePlan(
            action=actions[rows, best],
            return_mean=value,
            return_variance=_variance(visits, q),
            actions=actions,
            ids=ids,
            weights=weights,
            visits=visits,
            q=q,
            depth=_depth(*search.nodes()[::2]),
        )
        following = self.skip(carry)
        if carry.kept is not None:
            following = replace(following, kept=KeptTrees(search.save(), ids[rows, best], states.saved()))
        return plan, following

    def trees(self) -> list[TreeRecord]:
        """The trees of the last plan, one for each of its problems."""
        names = ("parent", "action", "visits", "value", "prior", "reward", "discount", "raw_value")
        parts: dict[str, Any] = dict(zip(names, (*self._search.nodes(), *self._search.details()), strict=True))
        ids, (_, best) = self._search.actions(), self._search.policy()
        return [
            TreeRecord(**{name: part[row] for name, part in parts.items()}, best=int(ids[row, best[row]]))
            for row in range(len(best))
        ]

    def _draw(self, carry: TreeCarry) -> tuple[NDArray[np.uint64], Tensor, NDArray[np.float64]]:
        """Seeds [B] of the search, uniform noise [S + 1, B, draws] of the model and [B] of the choice, by row."""
        shape = self.config.simulations + 1, self._model.num_draws
        seeds, noise = np.empty(len(carry.seed), np.uint64), np.empty((shape[0], len(carry.seed), shape[1]), np.float32)
        choice = np.empty(len(carry.seed))
        for row, key in enumerate(zip(carry.seed, carry.step.astype(np.uint64), strict=True)):
            rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
            seeds[row] = rng.integers(2**64, dtype=np.uint64)
            noise[:, row] = rng.random(shape, np.float32)
            choice[row] = rng.random()
        return seeds, torch.from_numpy(noise), choice


_NOT_OF_THE_SEARCH = {"method", "gamma", "sampled_actions", "action_temperature", "reuse_subtree", "uncertainty"}


class _States:
    """The latents of the nodes of B trees, [S + 1, B, ...] each.

    Node s is what simulation s finds, later by the nodes that were restored.
    """

    def __init__(self, like: Any, nodes: int) -> None:
        self.parts = [part.new_empty(nodes, *part.shape) for part in like]
        self.rows = torch.arange(like[0].shape[0], device=like[0].device)
        self._first: Tensor | None = None  # [B] nodes that are there before the first simulation
        self._limit = self.rows  # [B] simulations

    def restore(self, latents: tuple[NDArray[Any], ...], origin: NDArray[np.int32], limit: NDArray[np.int32]) -> None:
        """Takes over those of earlier nodes: latents [B, S + 1, ...] by origin [B, S + 1], where that is not -1."""
        device = self.rows.device
        places, rows = np.maximum(origin, 0), np.arange(len(origin))[:, None]
        for part, before in zip(self.parts, latents, strict=True):
            part.copy_(torch.from_numpy(before[rows, places]).to(device).transpose(0, 1))
        self._first = torch.from_numpy(np.maximum((origin >= 0).sum(axis=1), 1)).to(device)
        self._limit = torch.from_numpy(limit).to(device)

    def put(self, simulation: int, latent: Any) -> None:
        """Stores what a simulation found; 0 is the root."""
        for part, new in zip(self.parts, latent, strict=True):
            if self._first is None or simulation == 0:
                part[simulation] = new
                continue
            live = simulation <= self._limit
            part[(self._first + simulation - 1)[live], self.rows[live]] = new[live]

    def get(self, node: Tensor) -> list[Tensor]:
        """Those of one node [B] of each tree."""
        return [part[node, self.rows] for part in self.parts]

    def saved(self) -> tuple[NDArray[Any], ...]:
        """All of them [B, S + 1, ...], for `restore`."""
        return tuple(np.ascontiguousarray(_array(part.transpose(0, 1))) for part in self.parts)


def _depth(parent: NDArray[np.int32], visits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Actions [B] from the root to the deepest node, for parents [B, S + 1] and their visits."""
    depth = np.zeros(parent.shape, np.int32)
    for node in range(1, parent.shape[1]):  # a parent precedes its children
        above = np.maximum(parent[:, node, None], 0)
        depth[:, node] = np.take_along_axis(depth, above, axis=1)[:, 0] + (visits[:, node] > 0)
    return depth.max(axis=1)  # type: ignore[no-any-return]


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
    vectors: NDArray[np.float32] = (ids[..., None] == np.arange(size)).astype(np.float32)
    return vectors


def _mask(found: Expansion) -> NDArray[np.bool_] | None:
    return None if found.invalid is None else _array(found.invalid.contiguous())


def _either(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    return one if other is None else other if one is None else one | other


def _variance(visits: NDArray[np.int32], q: NDArray[np.float32]) -> NDArray[np.float32]:
    """Variance [B] of Q values [B, N], weighted by visits [B, N]."""
    shares = visits / visits.sum(-1, keepdims=True)
    known = np.where(visits > 0, q, 0.0)
    mean = (shares * known).sum(-1, keepdims=True)
    return (shares * (known - mean) ** 2).sum(-1).astype(np.float32)  # type: ignore[no-any-return]


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().contiguous().cpu().numpy()
    return array
