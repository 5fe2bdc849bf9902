"""The Dreamer family: a latent world model, and an actor and a critic that learn inside it.

PlaNet (Hafner et al. 2019), Dreamer v1 (2020), v2 (2021) and v3 (2025) differ by configuration alone.

An update (1) filters the batch with the posterior, (2) imagines from every state of it, (3) sums the losses of world
model, actor and critic, and (4) takes one step of every optimiser, if losses and gradients are finite. All noise is
drawn for the whole batch of all ranks, and each rank takes its own rows: N ranks of B / N sequences take the step of
one rank with B.

Letters: B sequences of this rank, T trained steps, N = B * T rows, H imagined steps, A action size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.specs import EnvSpec
from learner.algorithms.base import Part, UpdateResult, nonfinite
from learner.algorithms.dreamer_config import DreamerConfig
from learner.batch import SequenceBatch
from learner.checkpoint import save_tensors
from learner.collective import Collective, current
from learner.device import autocast, batch_tensors, fast_products
from learner.learner_config import Precision
from learner.losses.dreamer import (
    ReturnRange,
    actor_loss,
    critic_loss,
    cumulative_weight,
    free_nats,
    kl_balance,
    lambda_returns,
)
from learner.models.distributions import Regression, TwoHot
from learner.models.layers import one_matrix
from learner.models.rssm import LATENT_KEYS, Rssm, State
from learner.models.world_model import Disagreement, PolicyHead, ScalarHead, WorldModel
from learner.optim import Optimizer, learning_rate

Losses = dict[str, Tensor]
"""Weighted losses, each a scalar, by name."""
Report = dict[str, Tensor]
"""Further metrics, each a scalar without a gradient, by name."""


@dataclass(frozen=True)
class DreamerBatch:
    """The trained steps of a batch, on the device."""

    observation: dict[str, Tensor]  # key -> [B, T, ...] as stored
    action: Tensor  # [B, T, A] taken after each observation
    previous_action: Tensor  # [B, T, A] taken before it
    reward: Tensor  # [B, T]
    is_first: Tensor  # [B, T]
    is_last: Tensor  # [B, T]
    is_terminal: Tensor  # [B, T]
    start: State  # [B, ...] before the first step


@dataclass(frozen=True)
class Noise:
    """The random numbers of an update, drawn before it."""

    posterior: Tensor  # [B, T, ...]
    prior: Tensor  # [H, N, ...]
    action: Tensor  # [H, N, ...]


@dataclass(frozen=True)
class Imagined:
    """Imagined sequences, time-major: networks then read contiguous rows whichever steps are left out."""

    features: Tensor  # [H + 1, N, D + S]
    action: Tensor  # [H, N, A]
    reward: Tensor  # [H + 1, N] received on arriving at each state
    continuation: Tensor  # [H + 1, N]


class Behaviour(nn.Module):
    """Actor, critic and its slowly moving copy."""

    def __init__(self, config: DreamerConfig, spec: EnvSpec, features: int) -> None:
        super().__init__()
        assert config.behaviour is not None
        self.config = config.behaviour
        self.policy = PolicyHead(config.policy, spec.action, features, config.arch)
        self.value = ScalarHead(config.value, features, config.arch)
        self.slow_value = ScalarHead(config.value, features, config.arch).requires_grad_(False)
        self.slow_value.load_state_dict(self.value.state_dict())

    def target_value(self, features: Tensor, value: TwoHot | Regression) -> Tensor:
        """Values [H + 1, N] to bootstrap from; `value` is the critic's distribution of all states but the last."""
        if self.config.slow_target:
            return self.slow_value(features).mean  # type: ignore[no-any-return]
        if self.config.reinforce < 1.0:
            return self.value(features).mean  # type: ignore[no-any-return]
        return torch.cat([value.mean, self.value(features[-1:]).mean])

    def critic_loss(self, value: TwoHot | Regression, features: Tensor, returns: Tensor) -> Tensor:
        """The loss [...] of the critic's distribution `value` of features [..., D + S] on returns [...]."""
        weight, slow = self.config.slow_regulariser, None
        if weight > 0.0:
            with torch.no_grad():
                slow = self.slow_value(features).mean
        return critic_loss(value, returns, slow, weight)

    @torch.no_grad()
    def move_slow_value(self) -> None:
        """Move the slow critic toward the critic by `slow_rate`."""
        slow, fast = list[Tensor](self.slow_value.parameters()), list[Tensor](self.value.parameters())
        torch._foreach_lerp_(slow, fast, self.config.slow_rate)


class DreamerAlgorithm:
    """See the module.

    Args:
        config: What to learn and how.
        env_spec: The environment.
        device: Where to compute.
        seed: Seed of the initial weights and of all sampling.
        precision: "bf16" computes matrix products in bfloat16; weights, norms and losses stay in full width.
        collective: The ranks that share the work, by default the process group this process has joined.
        dtype: Width of weights and losses.

    Raises:
        ValueError: The environment does not fit the configuration.
    """

    def __init__(
        self,
        config: DreamerConfig,
        env_spec: EnvSpec,
        device: torch.device,
        seed: int,
        precision: Precision = "fp32",
        collective: Collective | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config
        self._device, self._precision, self._dtype = device, precision, dtype
        self._collective = collective or current()
        self.generator = torch.Generator(device).manual_seed(seed % 2**63)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            self.world = WorldModel(config.world_model, env_spec).to(device, dtype)
            rssm, action = self.world.rssm, self.world.action
            self.behaviour: Behaviour | None = None
            self.disagreement: Disagreement | None = None
            self.return_range: ReturnRange | None = None
            if (behaviour := config.behaviour) is not None:
                self.behaviour = Behaviour(config, env_spec, rssm.features).to(device, dtype)
                ends = behaviour.return_percentiles
                self.return_range = ReturnRange(behaviour.return_rate, ends, behaviour.return_limit, device, dtype)
            if config.plan2explore is not None:
                self.disagreement = Disagreement(config.plan2explore, rssm, action.size, config.arch).to(device, dtype)
        self._imagined_step = torch.compile(imagined_step, dynamic=False) if config.compile else imagined_step
        self.optimizers = self._make_optimizers()
        self.updates = 0

    def update(self, batch: SequenceBatch, part: Part | None = None) -> UpdateResult:
        """One step of every optimiser.

        Args:
            batch: Sequences of `context` + T steps.
            part: "world_model" leaves actor and critic, their optimisers and the range of returns as they are.

        Returns:
            The losses, and the latent states to store if they are stored.
        """
        random = self.generator.get_state()
        span = None if self.return_range is None else self.return_range.average
        data = self._to_device(batch)
        noise = self._draw(*data.is_first.shape)
        with fast_products(self._device):
            losses, report, states = self._losses(data, noise, part)
            total = torch.stack([loss.to(self._dtype) for loss in losses.values()]).sum() / self._collective.world_size
            total.backward()  # type: ignore[no-untyped-call]
        report |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        metrics, norms = self._reduce(report)
        if skipped := nonfinite(metrics):
            self.generator.set_state(random)
            if self.return_range is not None and span is not None:
                self.return_range.average = span
            for optimizer in self.optimizers:
                optimizer.clear()
            return UpdateResult(metrics, skipped=skipped)
        latents = self.world.rssm.pack(states) if self.config.store_latents else {}
        writebacks = {key: values.cpu().numpy() for key, values in latents.items()}
        self._step(norms, part)
        return UpdateResult(metrics, writebacks=writebacks)

    def export_weights(self) -> dict[str, NDArray[Any]]:
        """The world model without its decoder, the policy and the critic; see actors.latent_policy."""
        modules: dict[str, nn.Module] = {"world": self.world}
        if self.behaviour is not None:
            modules |= {"policy": self.behaviour.policy, "value": self.behaviour.value}
        return {
            f"{prefix}.{name}": value.detach().float().cpu().numpy().copy()
            for prefix, module in modules.items()
            for name, value in module.state_dict().items()
            if not name.startswith("decoder.")
        }

    def save_artifacts(self, directory: Path) -> list[Path]:
        """Write `world_model.pt` and, with a behaviour, `behaviour.pt`."""
        paths = []
        for name, module in (("world_model", self.world), ("behaviour", self.behaviour)):
            if module is not None:
                paths.append(directory / f"{name}.pt")
                save_tensors(paths[-1], module.state_dict())
        return paths

    def state_dict(self) -> dict[str, Any]:
        """Modules, optimisers, the range of the returns, the generator and the number of updates."""
        state: dict[str, Any] = {
            "modules": {
                name: {key: value.clone() for key, value in module.state_dict().items()}
                for name, module in self._modules().items()
            },
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }
        if self.return_range is not None:
            state["return_range"] = self.return_range.average.clone()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            RuntimeError: If the sizes of a module differ.
        """
        for name, module in self._modules().items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if state["generator"].shape == self.generator.get_state().shape:  # differs between the CPU and CUDA
            self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]
        if self.return_range is not None:
            self.return_range.average.copy_(state["return_range"])

    def _modules(self) -> dict[str, nn.Module]:
        named = {"world": self.world, "behaviour": self.behaviour, "disagreement": self.disagreement}
        return {name: module for name, module in named.items() if module is not None}

    def _make_optimizers(self) -> list[Optimizer]:
        """One optimiser for everything, except for an actor and a critic that have their own.

        A head for a reward that nothing else may learn from is apart too: gradients are clipped by their joint norm.
        """
        config, shared = self.config, list(self.world.parameters())
        if self.disagreement is not None:
            shared += self.disagreement.parameters()
        optimizers = []
        if not self._learns_task:
            head = list(self.world.reward.parameters())
            optimizers.append(Optimizer(config.optimizer, head, "reward"))
            shared = [parameter for parameter in shared if not any(parameter is one for one in head)]
        if self.behaviour is not None:
            parts = (
                ("actor", config.actor_optimizer, self.behaviour.policy),
                ("critic", config.critic_optimizer, self.behaviour.value),
            )
            for name, own, module in parts:
                if own is None:
                    shared += module.parameters()
                else:
                    optimizers.append(Optimizer(own, module.parameters(), name))
        return [Optimizer(config.optimizer, shared, together=one_matrix(self.world)), *optimizers]

    def _to_device(self, batch: SequenceBatch) -> DreamerBatch:
        """The trained steps of a batch on the device, with the state and the action before the first."""
        context = self.config.context
        if batch.shape[1] < context + 1:
            raise ValueError(f"sequences need at least {context + 1} steps, got {batch.shape[1]}")
        rssm, tensors = self.world.rssm, batch_tensors(batch, self._device)
        action = self.world.action.encode(tensors["action"], self._dtype)
        before = F.pad(action, (0, 0, 1, 0))[:, :-1]
        return DreamerBatch(
            {key: tensors[key][:, context:] for key in (*self.world.keys.images, *self.world.keys.vectors)},
            action[:, context:],
            before[:, context:],
            tensors["reward"].to(self._dtype)[:, context:],
            tensors["is_first"][:, context:],
            tensors["is_last"][:, context:],
            tensors["is_terminal"][:, context:],
            rssm.unpack({key: tensors[key][:, context - 1] for key in LATENT_KEYS}, self._dtype)
            if context
            else rssm.initial(len(action)),
        )

    def _draw(self, batch: int, steps: int) -> Noise:
        """This rank's rows of the noise for the batch of all ranks."""
        config, action = self.config, self.world.action
        rows = slice(batch * self._collective.rank, batch * (self._collective.rank + 1))
        everyone = batch * self._collective.world_size
        horizon = 0 if config.behaviour is None else config.behaviour.horizon
        options: dict[str, Any] = {"generator": self.generator, "device": self._device, "dtype": self._dtype}
        latent = torch.rand if config.rssm.latent == "categorical" else torch.randn
        posterior = latent(everyone, steps, config.rssm.groups, **options)[rows]
        prior = latent(horizon, everyone, steps, config.rssm.groups, **options)[:, rows]
        if action.spec.is_discrete:
            taken = torch.rand(horizon, everyone, steps, **options)[:, rows]
        else:
            taken = torch.randn(horizon, everyone, steps, action.size, **options)[:, rows]
        return Noise(posterior, prior.flatten(1, 2), taken.flatten(1, 2))

    def _losses(self, data: DreamerBatch, noise: Noise, part: Part | None = None) -> tuple[Losses, Report, State]:
        """Losses, further metrics, and the posterior states [B, T, ...] without gradients."""
        with autocast(self._device, self._precision):
            losses, report, states = self._world_losses(data, noise)
            if self.disagreement is not None:
                losses["disagreement"] = self._disagreement_loss(self.disagreement, data, states.map(Tensor.detach))
            if self.behaviour is not None and part is None:
                more, also = self._behaviour_losses(self.behaviour, data, states, noise)
                losses, report = losses | more, report | also
        return losses, report, states.map(Tensor.detach)

    def _world_losses(self, data: DreamerBatch, noise: Noise) -> tuple[Losses, Report, State]:
        """Losses of the world model, and the posterior states [B, T, ...]."""
        world, weights = self.world, self.config.losses
        states, statistics = world.filter_posterior(
            data.observation, data.previous_action, data.is_first, data.start, noise.posterior
        )
        posterior, prior = world.rssm.latent(statistics), world.rssm.latent(world.rssm.prior(states.deter))
        sides = kl_balance(posterior, prior)
        dynamics, representation = (
            free_nats(kl, weights.free_nats, weights.free_nats_of == "step", self._collective) for kl in sides
        )
        observation = {key: _rows(values) for key, values in data.observation.items()}
        reconstruction = world.decoder.losses(states.map(_rows), observation)
        losses = {f"reconstruction/{key}": weights.reconstruction * loss.mean() for key, loss in reconstruction.items()}
        features = states.features
        seen = features if self._learns_task else features.detach()
        losses["reward"] = weights.reward * world.reward(seen).loss(data.reward).mean()
        if world.continuation is not None:
            target = self._continuation_target(data)
            losses["continuation"] = weights.continuation * world.continuation(features).loss(target).mean()
        losses["dynamics"] = weights.dynamics * dynamics
        losses["representation"] = weights.representation * representation
        if weights.consistency > 0.0:
            losses["consistency"] = weights.consistency * self._consistency_loss(data, states, statistics, noise)
        report = {
            "kl": sides[0].detach().mean(),
            "entropy/posterior": posterior.detach().entropy().mean(),
            "entropy/prior": prior.detach().entropy().mean(),
        }
        return losses, report, states

    def _continuation_target(self, data: DreamerBatch) -> Tensor:
        """[B, T] whether the episode continues, times the discount if the head learns that too."""
        continuation, behaviour = 1.0 - data.is_terminal.to(self._dtype), self.config.behaviour
        if behaviour is None or not behaviour.discount_in_continuation:
            return continuation
        return continuation * behaviour.discount

    def _consistency_loss(self, data: DreamerBatch, states: State, statistics: Tensor, noise: Noise) -> Tensor:
        """KL from states predicted `consistency_steps` ahead, without observations, to the posterior there.

        A latent overshooting (Hafner et al. 2019, eq. 7) of one distance; sequences that cross an episode's end do
        not count.
        """
        ahead, rssm = self.config.losses.consistency_steps, self.world.rssm
        length = data.is_first.shape[1] - ahead
        if length < 1:
            raise ValueError(f"consistency_steps {ahead} needs sequences of more than {ahead} steps")
        state = states.map(lambda part: _rows(part[:, :length]))
        inside = torch.ones_like(data.is_first[:, :length])
        for k in range(1, ahead + 1):
            later = slice(k, k + length)
            inside = inside & ~data.is_first[:, later]
            state = rssm.step(state, _rows(data.previous_action[:, later]), _rows(noise.posterior[:, later]))
        expected = rssm.latent(rssm.prior(state.deter))
        actual = rssm.latent(_rows(statistics[:, ahead:].detach()))
        return (actual.kl(expected) * inside.flatten().to(self._dtype)).mean()

    def _disagreement_loss(self, disagreement: Disagreement, data: DreamerBatch, states: State) -> Tensor:
        following = (~data.is_first[:, 1:]).to(self._dtype)
        loss = disagreement.loss(states.features[:, :-1], data.action[:, :-1], states.stoch[:, 1:])
        return (loss * following).mean()

    def _behaviour_losses(
        self, behaviour: Behaviour, data: DreamerBatch, states: State, noise: Noise
    ) -> tuple[Losses, Report]:
        """Losses of actor and critic on imagined sequences, and of the critic on replayed ones."""
        config = behaviour.config
        with self._gradients_to_policy_alone(behaviour):
            imagined = self._imagine(behaviour.policy, states.map(lambda part: _rows(part.detach())), noise)
        visited = imagined.features[:-1].detach()
        value = behaviour.value(visited)
        with self._gradients_to_policy_alone(behaviour):
            target_value = behaviour.target_value(imagined.features, value)
            returns, weight = self._imagined_returns(behaviour, imagined, target_value)
        fixed_returns, fixed_value = returns.detach(), target_value.detach()
        scale: Tensor | float = 1.0
        if config.normalise_returns:
            assert self.return_range is not None
            scale = self.return_range.update(fixed_returns, self._collective)
        advantage = (fixed_returns - fixed_value[:-1]) / scale
        policy, shares = behaviour.policy(visited), (config.reinforce, config.entropy)
        actor, entropy = actor_loss(policy, imagined.action, returns / scale, advantage, weight, *shares)
        losses = {
            "actor": actor.mean(),
            "critic": config.critic * (weight * behaviour.critic_loss(value, visited, fixed_returns)).mean(),
        }
        reward = self._replayed_reward(data, states.map(Tensor.detach))
        replayed, continuation = self._replayed_returns(behaviour, data, reward, fixed_returns[0])
        if config.replay_value > 0.0:
            features = (states.features if config.value_gradient_to_model else states.features.detach())[:, :-1]
            loss = behaviour.critic_loss(behaviour.value(features), features, replayed)
            losses["replay_value"] = config.replay_value * (continuation * loss).mean()
        report = {
            "policy_entropy": entropy.detach().mean(),
            "imagined/reward": imagined.reward.detach().mean(),
            "imagined/return": fixed_returns.mean(),
            "imagined/value": fixed_value.mean(),
            "imagined/continuation": imagined.continuation.detach().mean(),
            "replayed/reward": data.reward.mean(),
            "replayed/return": self._masked_mean(replayed, continuation),
        }
        if config.normalise_returns:
            report["return_scale"] = torch.as_tensor(scale)
        return losses, report

    @contextmanager
    def _gradients_to_policy_alone(self, behaviour: Behaviour) -> Iterator[None]:
        """Within the context, gradients reach the policy through all other networks, or nothing if it needs none."""
        policy = {id(parameter) for parameter in behaviour.policy.parameters()}
        fixed = [p for optimizer in self.optimizers for p in optimizer.parameters if id(p) not in policy]
        for parameter in fixed:
            parameter.requires_grad_(False)
        try:
            with torch.set_grad_enabled(behaviour.config.reinforce < 1.0):
                yield
        finally:
            for parameter in fixed:
                parameter.requires_grad_(True)

    def _imagine(self, policy: PolicyHead, start: State, noise: Noise) -> Imagined:
        """H steps of the policy in the latent dynamics from states [N, ...]."""
        state, steps, actions = start, [start.features], []
        for noises in zip(noise.prior, noise.action, strict=True):
            state, next_features, action = self._imagined_step(self.world.rssm, policy, state, steps[-1], *noises)
            steps.append(next_features)
            actions.append(action)
        features, action = torch.stack(steps), torch.stack(actions)
        continuation = self.world.predict_continuation(features)
        reward = self._reward(features, action, lambda: self.world.reward(features).mean)
        return Imagined(features, action, reward, continuation)

    @property
    def _learns_task(self) -> bool:
        """Whether anything but the head that predicts it learns from the task's reward."""
        return self.config.plan2explore is None or self.config.plan2explore.extrinsic > 0.0

    def _reward(self, features: Tensor, action: Tensor, task: Callable[[], Tensor]) -> Tensor:
        """Rewards [H + 1, N] that actor and critic learn from, received on arriving at each state.

        Args:
            features: [H + 1, N, D + S] of the states.
            action: [H, N, A] that led from each to the next.
            task: The task's reward [H + 1, N], asked for where it counts.
        """
        plan2explore = self.config.plan2explore
        if plan2explore is None or self.disagreement is None:
            return task()
        intrinsic = plan2explore.intrinsic * F.pad(self.disagreement.reward(features[:-1], action), (0, 0, 1, 0))
        return intrinsic + plan2explore.extrinsic * task() if self._learns_task else intrinsic

    @torch.no_grad()
    def _replayed_reward(self, data: DreamerBatch, states: State) -> Tensor:
        """The same [B, T] of replayed steps and their states [B, T, ...]; that of the first step is not known."""
        if self.disagreement is None:
            return data.reward
        features, action = states.features.transpose(0, 1), data.action[:, :-1].transpose(0, 1)
        return self._reward(features, action, lambda: data.reward.T).T

    def _imagined_returns(self, behaviour: Behaviour, imagined: Imagined, value: Tensor) -> tuple[Tensor, Tensor]:
        """Returns [H, N] that bootstrap from values [H + 1, N], and the weights [H, N] of their states."""
        config, continuation = behaviour.config, imagined.continuation.T
        in_continuation = config.discount_in_continuation and self.world.continuation is not None
        discount = 1.0 if in_continuation else config.discount
        uncut = torch.ones_like(continuation)
        returns = lambda_returns(imagined.reward.T, continuation * discount, value.T, config.lambda_, uncut)
        weight = cumulative_weight(continuation.detach(), discount)[:, :-1]
        return returns.T, weight.T

    def _replayed_returns(
        self, behaviour: Behaviour, data: DreamerBatch, reward: Tensor, imagined: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns [B, T - 1] of replayed rewards [B, T], and where [B, T - 1] the episode has a next step.

        They bootstrap from imagined returns [N] of the same states.
        """
        config = behaviour.config
        discount = config.discount * (1.0 - data.is_terminal.to(self._dtype))
        continuation = 1.0 - data.is_last.to(self._dtype)
        returns = lambda_returns(reward, discount, imagined.view(reward.shape), config.lambda_, continuation)
        return returns, continuation[:, :-1]

    def _masked_mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """The mean of values where the mask of their shape is 1, over all ranks."""
        total, count = self._collective.mean(torch.stack([(values * mask).mean(), mask.mean()]))
        return total / count.clamp(min=torch.finfo(count.dtype).tiny)  # type: ignore[no-any-return]

    def _reduce(self, report: Report) -> tuple[dict[str, float], list[tuple[Optimizer, Tensor]]]:
        """Sum gradients over the ranks and average the report; that as numbers, and the optimisers' gradient norms.

        This is the one time that the device is waited for: the same numbers say on every rank whether the optimisers
        step, and the next batch is prepared while they do.
        """
        gradients = [p.grad for optimizer in self.optimizers for p in optimizer.parameters if p.grad is not None]
        averages = torch.stack([value.to(self._dtype) for value in report.values()]) / self._collective.world_size
        self._collective.sum_([*gradients, averages])
        stepping = [each for each in self.optimizers if any(p.grad is not None for p in each.parameters)]
        norms = [(optimizer, optimizer.gradient_norm()) for optimizer in stepping]
        values = torch.cat([averages, torch.stack([norm.to(self._dtype) for _, norm in norms])]).tolist()
        names = [f"gradient_norm/{each.name}" if each.name else "gradient_norm" for each in stepping]
        metrics = dict(zip([*report, *names], values, strict=True))
        metrics["loss"] = sum(value for name, value in metrics.items() if name.startswith("loss/"))
        metrics["learning_rate"] = learning_rate(self.config.optimizer, self.optimizers[0].step_count)
        return metrics, norms

    def _step(self, norms: list[tuple[Optimizer, Tensor]], part: Part | None) -> None:
        """Step the optimisers whose gradients have norms, and move what follows their parameters."""
        for optimizer, norm in norms:
            optimizer.step(norm)
        self.updates += 1
        if self.behaviour is not None and part is None and self.updates % self.behaviour.config.slow_every == 0:
            self.behaviour.move_slow_value()


def imagined_step(
    rssm: Rssm, policy: PolicyHead, state: State, features: Tensor, latent_noise: Tensor, action_noise: Tensor
) -> tuple[State, Tensor, Tensor]:
    """A step of the policy in the latent dynamics: the next state, its features and the action [N, A]."""
    action = policy(features.detach()).sample(action_noise)
    state = rssm.step(state, action.to(state.deter.dtype), latent_noise)
    return state, state.features, action


def _rows(values: Tensor) -> Tensor:
    """[B, T, ...] as [N, ...]."""
    return values.flatten(0, 1)
