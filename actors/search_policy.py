"""Acts by a tree search in a learned model, and stores what the searches found.

Letters: E environments, N actions searched at the root, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from learner.searched import SEARCH_ACTIONS, SEARCH_POLICY, SEARCH_VALUE, search_specs
from planners.base import TreePlan
from planners.config import MctsConfig, PlannerConfig
from planners.noise import RandomCarry, RowGenerator
from planners.tree import TreeCarry, TreePlanner


@dataclass(frozen=True)
class SearchCarry:
    """What a searching policy remembers."""

    random: RandomCarry  # [E] of the actions that are drawn
    tree: TreeCarry  # [E] of the searches


class SearchPolicy:
    """See actors.records.Policy; random until there are weights.

    Exploring, a search has the planner's noise at its root, and by "puct" its action is drawn from the visits at the
    temperature of the weights; evaluating, it has none and takes the most visited one. The priority of a step is how
    far the search moved the value that the network predicts: the search's own temporal-difference error.

    Args:
        spec: The environment.
        config: The algorithm.
        planner: The search.
        device: Where to compute.
        priorities: Whether outputs have priorities.

    Raises:
        ValueError: The environment does not fit the configuration, or the planner is no tree search.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: MuZeroConfig,
        planner: PlannerConfig,
        device: torch.device | str = "cpu",
        priorities: bool = False,
    ) -> None:
        if not isinstance(planner, MctsConfig):
            raise ValueError(f"{config.name} acts by tree search: planner.method must be mcts, got {planner.method}")
        self.version = 0
        self._config, self._planner_config, self._device = config, planner, torch.device(device)
        self._gives_priorities = priorities
        self._random = RandomPolicy(spec.action)
        with torch.random.fork_rng(devices=[]):  # initial weights are never used: leave the process's numbers alone
            self._model = MuZeroModel(config.model, spec).to(self._device).requires_grad_(False)
        self._action = self._model.action
        self._tree = SearchedModel(self._model, config.discount, planner.sampled_actions)
        self._planner = TreePlanner(planner, self._tree)
        self._generator = RowGenerator(1)

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """The statistics of the searches."""
        return search_specs(self._tree.num_actions, 0 if self._model.discrete else self._action.size)

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
        draws, random = self._generator.uniform(carry.random)
        chosen = self._choose(plan, draws[:, 0], explore)
        stored = self._action.decode(self._tensor(chosen)).cpu().numpy()
        metrics = plan.metrics()
        priority = None
        if self._gives_priorities:
            _, value = self._model.predict(latent.state)
            priority = np.abs(plan.value - value.mean.float().cpu().numpy())
        metrics["planning_ms"] = np.full(len(stored), 1e3 * (perf_counter() - start), np.float32)
        extras = {SEARCH_POLICY: plan.weights, SEARCH_VALUE: plan.value}
        if not self._model.discrete:
            extras[SEARCH_ACTIONS] = plan.actions
        dtype = self._action.spec.dtype
        following = SearchCarry(random, tree)
        return PolicyOutput(stored.astype(dtype, copy=False), following, metrics, extras, priority)

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
        self.version = version

    @property
    def _keys(self) -> tuple[str, ...]:
        return (*self._model.keys.images, *self._model.keys.vectors)

    def _choose(self, plan: TreePlan, uniform: NDArray[np.float32], explore: bool) -> NDArray[np.float32]:
        """The actions [E, A], as the model sees them."""
        if not explore or self._planner_config.selection != "puct":
            return plan.action
        index = draw_action(plan.weights, self._config.temperature_at(self.version), uniform)
        return plan.actions[np.arange(len(index)), index]

    def _act_at_random(self, step: StepBatch, carry: SearchCarry, explore: bool) -> PolicyOutput:
        output = self._random.act(step, carry.random, explore)
        rows = len(step.is_first)
        extras = {key: np.zeros((rows, *spec.shape), spec.dtype) for key, spec in self.extras.items()}
        priority = np.ones(rows, np.float32) if self._gives_priorities else None
        following = SearchCarry(output.carry, self._planner.skip(carry.tree))
        return PolicyOutput(output.action, following, {}, extras, priority)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def draw_action(weights: NDArray[np.float32], temperature: float, uniform: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices [E] drawn in proportion to weights [E, N] to the power of 1 / temperature; 0 takes the largest.

    Args:
        weights: Not negative, some positive in every row.
        temperature: Not negative.
        uniform: [E] in [0, 1), by which to draw.
    """
    if temperature == 0.0:
        return np.asarray(weights.argmax(-1))
    largest = weights.max(-1, keepdims=True).astype(np.float64)
    masses = (weights / largest) ** (1.0 / temperature)
    ends = masses.cumsum(-1)
    passed = ends <= uniform[:, None] * ends[:, -1:]
    return np.asarray(passed.sum(-1))
