"""Acts by a tree search in a learned model, and stores what the searches found.

Letters: E environments, N actions searched at the root, A action size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.random_policy import RandomPolicy
from actors.records import PolicyOutput
from actors.searched_model import SearchedModel
from envs.specs import ArraySpec, EnvSpec, StepBatch
from learner.algorithms.muzero_config import MuZeroConfig
from learner.models.muzero import MuZeroModel
from learner.searched import SEARCH_ACTIONS, SEARCH_POLICY, SEARCH_VALUE, search_specs, with_fresh
from planners.config import BOX_SAMPLES, MctsConfig, PlannerConfig
from planners.noise import RandomCarry
from planners.tree import TreeCarry, TreePlanner
from planners.tree_record import TreeRecord


@dataclass(frozen=True)
class SearchCarry:
    """What a searching policy remembers."""

    random: RandomCarry  # [E] of the actions before there are weights
    tree: TreeCarry  # [E] of the searches


class SearchPolicy:
    """See actors.records.Policy; random until there are weights.

    Exploring, a search has the planner's noise at its root, and its action is drawn at the planner's temperature for
    the update that the weights are of; evaluating, it has none and takes the best one. The priority of a step is how
    far the search moved the value that the network predicts: the search's own temporal-difference error.

    Args:
        spec: The environment.
        config: The algorithm.
        planner: The search.
        device: Where to compute.
        priorities: Whether outputs have priorities.
        fresh_targets: Whether steps are stored with room for what later searches find, see `actors.reanalyze`.

    Raises:
        ValueError: The environment does not fit the configuration, or the planner is no tree search or draws
            more ids than there are.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: MuZeroConfig,
        planner: PlannerConfig,
        device: torch.device | str = "cpu",
        priorities: bool = False,
        fresh_targets: bool = False,
    ) -> None:
        if not isinstance(planner, MctsConfig):
            raise ValueError(f"{config.name} acts by tree search: planner.method must be mcts, got {planner.method}")
        planner.check_one_model(config.name)
        self.version = 0
        self._config, self._planner_config, self._device = config, planner, torch.device(device)
        self._gives_priorities = priorities
        self._random = RandomPolicy(spec.action)
        with torch.random.fork_rng(devices=[]):  # initial weights are never used: leave the process's numbers alone
            self._model = MuZeroModel(config.model, spec).to(self._device).requires_grad_(False)
        self._action = self._model.action
        drawn = planner.drawn_ids(self._action.size) if self._model.discrete else planner.sampled_actions or BOX_SAMPLES
        found = search_specs(spec.action, drawn)
        self._extras = with_fresh(found) if fresh_targets else found
        self._tree = SearchedModel(self._model, config.discount, drawn or 0)
        self._planner = TreePlanner(planner, self._tree)

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """The statistics of the searches, and zeros where later ones will be."""
        return self._extras

    def initial(self, seeds: NDArray[np.uint64]) -> SearchCarry:
        """The carry of len(seeds) environments."""
        return SearchCarry(self._random.initial(seeds), self._planner.initial(seeds))

    @torch.no_grad()
    def act(self, step: StepBatch, carry: SearchCarry, explore: bool) -> PolicyOutput:
        """One action per row; metrics are those of the plan and planning_ms of the call."""
        if self.version == 0:
            return self._act_at_random(step, carry, explore)
        start = perf_counter()
        latent = self._model.represent({key: self._tensor(step.observation[key]) for key in self._keys})
        plan, tree = self._planner.plan(latent, carry.tree, step.is_first, explore)
        stored = self._action.decode(self._tensor(plan.action)).cpu().numpy()
        metrics = plan.metrics()
        priority = None
        if self._gives_priorities:
            _, value = self._model.predict(latent.state)
            priority = np.abs(plan.value - value.mean.float().cpu().numpy())
        metrics["planning_ms"] = np.full(len(stored), 1e3 * (perf_counter() - start), np.float32)
        extras: dict[str, NDArray[Any]] = {SEARCH_POLICY: plan.weights, SEARCH_VALUE: plan.value}
        if SEARCH_ACTIONS in self._extras:
            extras[SEARCH_ACTIONS] = plan.ids if self._model.discrete else plan.actions
        extras |= self._zeros(len(stored), set(self._extras) - set(extras))
        dtype = self._action.spec.dtype
        following = SearchCarry(carry.random, tree)
        return PolicyOutput(stored.astype(dtype, copy=False), following, metrics, extras, priority)

    def trees(self) -> list[TreeRecord]:
        """The trees of the last step, one per row; none before there are weights."""
        return self._planner.trees() if self.version else []

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Replace the weights if `version` is newer.

        Raises:
            RuntimeError: The weights are of another model.
        """
        if version <= self.version:
            return
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        own = {name: value for name, value in self._model.state_dict().items() if name.startswith("projection.")}
        self._model.load_state_dict(own | tensors)
        self.version = self._planner.training_step = version

    @property
    def _keys(self) -> tuple[str, ...]:
        return (*self._model.keys.images, *self._model.keys.vectors)

    def _act_at_random(self, step: StepBatch, carry: SearchCarry, explore: bool) -> PolicyOutput:
        output = self._random.act(step, carry.random, explore)
        rows = len(step.is_first)
        extras = self._zeros(rows, self._extras)
        priority = np.ones(rows, np.float32) if self._gives_priorities else None
        following = SearchCarry(output.carry, self._planner.skip(carry.tree))
        return PolicyOutput(output.action, following, {}, extras, priority)

    def _zeros(self, rows: int, keys: Collection[str]) -> dict[str, NDArray[Any]]:
        return {key: np.zeros((rows, *spec.shape), spec.dtype) for key, spec in self._extras.items() if key in keys}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
