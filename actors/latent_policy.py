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

from actors.random_policy import RandomCarry, RandomPolicy, RowGenerator
from actors.records import PolicyOutput
from envs.specs import ArraySpec, EnvSpec, StepBatch
from learner.algorithms.dreamer_config import DreamerConfig
from learner.models.rssm import RssmConfig, State
from learner.models.world_model import LatentModel, PolicyHead, ScalarHead
from planners.base import Expansion, Planner, PlannerCarry
from planners.config import PlannerConfig
from planners.sampling import SamplingPlanner
from planners.scoring import TorchEvaluator
from planners.tree import TreePlanner


@dataclass(frozen=True)
class LatentCarry:
    """What a latent policy remembers."""

    deter: NDArray[np.float32]  # [N, D]
    stoch: NDArray[np.float32]  # [N, S]
    action: NDArray[np.float32]  # [N, A] the last action, as the model sees it
    random: RandomCarry  # [N]
    plan: PlannerCarry | None  # of a planning policy


class LatentPolicy:
    """See actors.records.Policy; random until there are weights.

    Exploring actors sample their actions and add the configured noise; the others sample or take the mode, by
    configuration. A row's noise is its own, whatever it is batched with.

    Args:
        spec: The environment.
        config: The algorithm.
        planner: The planner of a policy that plans.
        device: Where to compute.

    Raises:
        ValueError: The environment does not fit the configuration, or the planner fits neither.
    """

    def __init__(
        self, spec: EnvSpec, config: DreamerConfig, planner: PlannerConfig, device: torch.device | str = "cpu"
    ) -> None:
        self.version = 0
        self._config, self._device = config, torch.device(device)
        self._random = RandomPolicy(spec.action)
        with torch.random.fork_rng(devices=[]):  # initial weights are never used: leave the process's numbers alone
            self._model = LatentModel(config.world_model, spec).to(self._device)
            self._heads = self._make_heads(spec).to(self._device)
        self._action = self._model.action
        self._planner = self._make_planner(spec, planner) if config.acting == "planner" else None
        self._action_draws = 1 if spec.action.is_discrete else self._action.size
        self._generator = RowGenerator(config.rssm.groups + 2 * self._action_draws)

    def _make_heads(self, spec: EnvSpec) -> nn.ModuleDict:
        """Policy and critic, if the algorithm has them."""
        config = self._config
        if config.behaviour is None:
            return nn.ModuleDict()
        features, arch = self._model.rssm.features, config.arch
        policy = PolicyHead(config.policy, spec.action, features, arch)
        return nn.ModuleDict({"policy": policy, "value": ScalarHead(config.value, features, arch)})

    def _make_planner(self, spec: EnvSpec, config: PlannerConfig) -> Planner:
        """The planner of a policy that plans."""
        size, device = self._action.size, str(self._device)
        has_behaviour = self._config.behaviour is not None
        if config.method == "mcts":
            if not has_behaviour:
                raise ValueError(f"planner method mcts needs a policy and a critic, which {self._config.name} lacks")
            policy, value = self._heads["policy"], self._heads["value"]
            tree = LatentTreeModel(self._model, policy, value, config.tree.sampled_actions)
            return TreePlanner(config, size, tree, device)
        if spec.action.is_discrete:
            raise ValueError(f"planner method {config.method} needs a box of actions, but those of {spec.name} are ids")
        box = np.ones(size, np.float32)
        scored = LatentPlanningModel(self._model, self._heads["value"] if has_behaviour else None, config)
        return SamplingPlanner(config, -box, box, TorchEvaluator(scored, config.gamma, device))

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
        if self.version == 0:
            return self._act_at_random(step, carry, explore)
        draws, random = self._generator.uniform(carry.random)
        latent_noise, action_noise, spread = np.split(
            draws, [self._config.rssm.groups, self._config.rssm.groups + self._action_draws], axis=1
        )
        state = self._observe(step, carry, latent_noise)
        metrics: dict[str, NDArray[np.float32]] = {}
        plan = carry.plan
        if self._planner is not None:
            assert plan is not None
            chosen, plan = self._planner.plan(state, plan, step.is_first)
            action = torch.from_numpy(chosen.action).to(self._device)
            metrics = {"return_mean": chosen.return_mean, "return_variance": chosen.return_variance}
        else:
            policy = self._heads["policy"](state.features)
            discrete = self._action.spec.is_discrete
            uniform = self._tensor(action_noise)
            noise = uniform[:, 0] if discrete else _normals(uniform)
            sampled = explore or self._config.policy.evaluation == "sample"
            action = policy.sample(noise) if sampled else policy.mode()
        if explore and self._config.exploration_noise > 0.0:
            action = self._explore(action, spread)
        stored = self._action.decode(action)
        following = LatentCarry(
            _array(state.deter), _array(state.stoch), _array(self._action.encode(stored, torch.float32)), random, plan
        )
        spec = self._action.spec
        return PolicyOutput(_array(stored).astype(spec.dtype, copy=False), following, metrics, self._stored(state))

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
        eps = _latent_noise(self._config.rssm, self._tensor(noise))
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
            return action + amount * _normals(self._tensor(spread))
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


class LatentPlanningModel:
    """The latent dynamics as planners see them; see planners.base.PlanningModel.

    Particles of a candidate differ by their noise, which all candidates share: what differs between two candidates
    is then their actions alone.

    Args:
        model: The world model.
        value: A critic for what comes after the horizon, None to ignore it.
        config: The planner.
    """

    def __init__(self, model: LatentModel, value: nn.Module | None, config: PlannerConfig) -> None:
        self.num_particles = config.particles or 1
        self._model, self._value = model, value

    def initial(self, observation: State, num_candidates: int) -> State:
        """Each of the B states [B, ...] for all its candidates' particles."""
        rows = num_candidates * self.num_particles
        return State(*(part.repeat_interleave(rows, dim=0) for part in observation))

    def step(self, latent: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """One imagined step, its reward and the probability that the episode goes on."""
        config = self._model.rssm.config
        draw = torch.rand if config.latent == "categorical" else torch.randn
        noise = draw(self.num_particles, config.groups, device=latent.deter.device)
        rows = len(latent.deter) // self.num_particles
        state = self._model.rssm.step(latent, action, noise.repeat(rows, 1))
        features = state.features
        return state, self._model.reward(features).mean, self._model.predict_continuation(features)

    def value(self, latent: State) -> Tensor:
        """The critic's value of the last states [rows]."""
        if self._value is None:
            return latent.deter.new_zeros(len(latent.deter))
        return self._value(latent.features).mean  # type: ignore[no-any-return]


class LatentTreeModel:
    """The latent dynamics as a tree search sees them; see planners.base.TreeModel.

    Where actions are ids a node has all of them, with the actor's prior. Where they are a box it has samples of the
    actor, which are then equally likely (Hubert et al. 2021, "Learning and planning in complex action spaces").

    Args:
        model: The world model.
        policy: Its actor.
        value: Its critic.
        sampled_actions: Samples of a node.
    """

    def __init__(self, model: LatentModel, policy: nn.Module, value: nn.Module, sampled_actions: int) -> None:
        self._model, self._policy, self._value = model, policy, value
        self._discrete = model.action.spec.is_discrete
        self.num_actions = model.action.size if self._discrete else sampled_actions
        self._groups = model.rssm.config.groups
        self.num_draws = self._groups + (0 if self._discrete else sampled_actions * model.action.size)

    def step(self, latent: State, action: Tensor, noise: Tensor) -> tuple[State, Tensor, Tensor]:
        """One imagined step, its reward and the probability that the episode goes on."""
        rssm = self._model.rssm
        state = rssm.step(latent, action, _latent_noise(rssm.config, noise[:, : self._groups]))
        features = state.features
        return state, self._model.reward(features).mean, self._model.predict_continuation(features)

    def expand(self, latent: State, noise: Tensor) -> Expansion:
        """Prior, value and actions of the states."""
        features = latent.features
        value = self._value(features).mean
        size = self._model.action.size
        if self._discrete:
            ids = torch.eye(size, device=features.device).expand(len(features), -1, -1)
            return Expansion(self._policy(features).log_probs, value, ids)
        eps = _normals(noise[:, self._groups :]).view(-1, self.num_actions, size)
        actions = self._policy(features[:, None]).sample(eps)
        return Expansion(actions.new_zeros(actions.shape[:2]), value, actions)


def _latent_noise(config: RssmConfig, uniform: Tensor) -> Tensor:
    """Noise for a sample of the latents, from uniform numbers in [0, 1)."""
    return uniform if config.latent == "categorical" else _normals(uniform)


def _normals(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform multiples of 2^-24 in [0, 1)."""
    return torch.special.ndtri(uniform.double() + 2.0**-25).float()  # type: ignore[no-any-return]


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
