"""Acts with a latent world model: by its actor, or by planning in latent space.

Letters: N environments, D deterministic and S stochastic features, G latent groups, A action size of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actors.latent_models import SearchedLatents, latent_noise, normals
from actors.random_policy import RandomPolicy
from actors.records import PolicyOutput
from envs.specs import ArraySpec, EnvSpec, StepBatch
from learner.algorithms.dreamer_config import DreamerConfig
from learner.models.rssm import State
from learner.models.world_model import LatentModel, PolicyHead, ScalarHead, WorldModel
from planners.base import Planner
from planners.config import PlannerConfig
from planners.factory import make_planner
from planners.noise import RandomCarry, RowGenerator
from planners.tree import TreePlanner
from planners.tree_record import TreeRecord


@dataclass(frozen=True)
class LatentCarry:
    """What a latent policy remembers."""

    deter: NDArray[np.float32]  # [N, D]
    stoch: NDArray[np.float32]  # [N, S]
    action: NDArray[np.float32]  # [N, A] the last action, as the model sees it
    random: RandomCarry  # [N]
    plan: Any  # [N] the planner's, of a planning policy


class LatentPolicy:
    """See actors.records.Policy; until there are weights, random or with those that the learner starts with.

    Exploring actors sample their actions and add the configured noise; the others sample or take the mode, by
    configuration. A planner's action gets the same noise where it explores; what disturbs the search itself is the
    planner's, see planners.base.Planner. A row's noise is its own, whatever it is batched with.

    Args:
        spec: The environment.
        config: The algorithm.
        planner: The planner of a policy that plans.
        device: Where to compute.
        seed: The learner's, from which its first weights follow.

    Raises:
        ValueError: The environment does not fit the configuration, or the planner fits neither.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: DreamerConfig,
        planner: PlannerConfig,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.version = 0
        self._config, self._device = config, torch.device(device)
        self._random = RandomPolicy(spec.action, f"the action of {spec.name}")
        self._model, self._heads = self._first_networks(spec, seed)
        self._action = self._model.action
        self._planner: Planner | None = None
        if config.acting == "planner":
            latents = SearchedLatents(config.name, self._model, dict(self._heads.items()))
            high = self._action.reach.cpu().numpy()  # 0 where the action is fixed
            self._planner = make_planner(planner, latents, -high, high)
        self._action_draws = 1 if spec.action.is_discrete else self._action.size
        self._generator = RowGenerator(config.rssm.groups + 2 * self._action_draws)

    def _first_networks(self, spec: EnvSpec, seed: int) -> tuple[LatentModel, nn.ModuleDict]:
        """The model, and policy and critic if the algorithm has them, as the learner draws them from its seed."""
        config, heads = self._config, nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            model = WorldModel(config.world_model, spec)
            if config.behaviour is not None:
                features, arch = model.rssm.features, config.arch
                heads["policy"] = PolicyHead(config.policy, spec.action, features, arch)
                heads["value"] = ScalarHead(config.value, features, arch)
        del model.decoder  # which no action needs
        return model.to(self._device), heads.to(self._device)

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """The latent states, if they are stored."""
        stored = self._stored(self._model.rssm.initial(1))
        return {key: ArraySpec(values.shape[1:], str(values.dtype)) for key, values in stored.items()}

    def initial(self, seeds: NDArray[np.uint64]) -> LatentCarry:
        """The carry of len(seeds) environments."""
        rssm, rows = self._model.rssm, len(seeds)
        return LatentCarry(
            np.zeros((rows, rssm.deter), np.float32),
            np.zeros((rows, rssm.stoch), np.float32),
            np.zeros((rows, self._action.size), np.float32),
            self._random.initial(seeds),
            None if self._planner is None else self._planner.initial(seeds),
        )

    @torch.no_grad()
    def act(self, step: StepBatch, carry: LatentCarry, explore: bool) -> PolicyOutput:
        """One action per row; metrics of a planning policy are those of its plan."""
        if self.version == 0 and self._config.first_actions == "random":
            return self._act_at_random(step, carry, explore)
        draws, random = self._generator.uniform(carry.random)
        latent_noise, action_noise, spread = np.split(
            draws, [self._config.rssm.groups, self._config.rssm.groups + self._action_draws], axis=1
        )
        state = self._observe(step, carry, latent_noise)
        metrics: dict[str, NDArray[np.float32]] = {}
        plan = carry.plan
        if self._planner is not None:
            chosen, plan = self._planner.plan(state, plan, step.is_first, explore)
            action = torch.from_numpy(chosen.action).to(self._device)
            metrics = chosen.metrics()
        else:
            policy = self._heads["policy"](state.features)
            discrete = self._action.spec.is_discrete
            uniform = self._tensor(action_noise)
            noise = uniform[:, 0] if discrete else normals(uniform)
            sampled = explore or self._config.policy.evaluation == "sample"
            action = policy.sample(noise) if sampled else policy.mode()
        if explore and self._config.exploration_noise > 0.0:
            action = self._explore(action, spread)
        stored = self._action.decode(action)
        if isinstance(self._planner, TreePlanner) and self._action.spec.is_discrete:
            plan = self._planner.took(plan, _array(stored))
        following = LatentCarry(
            _array(state.deter), _array(state.stoch), _array(self._action.encode(stored, torch.float32)), random, plan
        )
        spec = self._action.spec
        return PolicyOutput(_array(stored).astype(spec.dtype, copy=False), following, metrics, self._stored(state))

    def trees(self) -> list[TreeRecord]:
        """The trees of the last step, one per row; none where the policy does not search."""
        return self._planner.trees() if isinstance(self._planner, TreePlanner) else []

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Replace the weights if `version` is newer.

        Raises:
            RuntimeError: The weights are of another model.
        """
        if version <= self.version:
            return
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        for prefix, module in {"world": self._model, **self._heads}.items():
            start = f"{prefix}."
            own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            module.load_state_dict(own)
        self.version = version

    def _act_at_random(self, step: StepBatch, carry: LatentCarry, explore: bool) -> PolicyOutput:
        output = self._random.act(step, carry.random, explore)
        rssm = self._model.rssm
        following = LatentCarry(carry.deter, carry.stoch, carry.action, output.carry, carry.plan)
        extras = self._stored(rssm.initial(len(step.is_first)))
        return PolicyOutput(output.action, following, {}, extras)

    def _observe(self, step: StepBatch, carry: LatentCarry, noise: NDArray[np.float32]) -> State:
        """The posterior states [N, ...] after this step's observations."""
        keys = self._model.keys
        observation = {key: self._tensor(step.observation[key])[:, None] for key in (*keys.images, *keys.vectors)}
        eps = latent_noise(self._config.rssm, self._tensor(noise))
        before = State(self._tensor(carry.deter), self._tensor(carry.stoch))
        states, _ = self._model.filter_posterior(
            observation,
            self._tensor(carry.action)[:, None],
            self._tensor(step.is_first)[:, None],
            before,
            eps[:, None],
        )
        return State(states.deter[:, 0], states.stoch[:, 0])

    def _explore(self, action: Tensor, spread: NDArray[np.float32]) -> Tensor:
        """Actions with Gaussian noise, or now and then a random one where they are ids."""
        amount = self._config.exploration_noise
        if not self._action.spec.is_discrete:
            return action + amount * normals(self._tensor(spread))
        uniform = self._tensor(spread)  # below `amount` it also picks the action
        ids = (uniform[:, 0] / amount * self._action.size).long().clamp(max=self._action.size - 1)
        anything = torch.nn.functional.one_hot(ids, self._action.size).to(action.dtype)
        return torch.where(uniform < amount, anything, action)

    def _stored(self, state: State) -> dict[str, NDArray[Any]]:
        if not self._config.store_latents:
            return {}
        return {key: _array(values) for key, values in self._model.rssm.pack(state).items()}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
