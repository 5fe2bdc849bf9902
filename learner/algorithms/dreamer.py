"""The Dreamer family: a latent world model, and an actor and a critic that learn inside it.

PlaNet (Hafner et al. 2019), Dreamer v1 (2020), v2 (2021) and v3 (2025) differ by configuration alone.

An update (1) follows the batch with the posterior, (2) imagines from every state it met, (3) sums the losses of world
model, actor and critic, and (4) takes one step of every optimiser. All noise is drawn for the whole batch of all
ranks, and each rank takes its own rows: N ranks of B / N sequences take the step of one rank with B.

Letters: B sequences of this rank, T trained steps, N = B * T rows, H imagined steps, A action size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.specs import EnvSpec
from learner.algorithms.base import Part, UpdateResult
from learner.algorithms.dreamer_config import DreamerConfig
from learner.batch import SequenceBatch
from learner.device import Precision, autocast, fast_products
from learner.distributed import Collective, current
from learner.losses.dreamer import actor_loss, critic_loss, cumulative_weight, free_nats, kl_balance
from learner.losses.returns import ReturnRange, lambda_returns
from learner.models.distributions import Regression, TwoHot
from learner.models.heads import PolicyHead, ScalarHead
from learner.models.rssm import Rssm, State
from learner.models.world_model import Disagreement, WorldModel
from learner.optim import Optimizer, learning_rate
from learner.prefetch import batch_tensors

LATENT_KEYS = ("latent_deter", "latent_stoch")
"""Keys under which latent states are stored in the replay."""


@dataclass(frozen=True)
class DreamerBatch:
    """What an update works on, on the device."""

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


class Behaviour(nn.Module):
    """Actor, critic and its slowly moving copy."""

    def __init__(self, config: DreamerConfig, spec: EnvSpec, features: int) -> None:
        super().__init__()
        assert config.behaviour is not None
        self.config = config.behaviour
        shape = features, config.sizes.units, config.norm, config.act
        self.policy = PolicyHead(config.policy, spec.action, *shape)
        self.value = ScalarHead(config.value, *shape)
        self.slow_value = ScalarHead(config.value, *shape).requires_grad_(False)
        self.slow_value.load_state_dict(self.value.state_dict())

    @torch.no_grad()
    def move_slow_value(self) -> None:
        """Move the slow critic a share of the way."""
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
            self.world = WorldModel(config, env_spec).to(device, dtype)
            rssm = self.world.rssm
            self.behaviour: Behaviour | None = None
            self.disagreement: Disagreement | None = None
            if config.behaviour is not None:
                self.behaviour = Behaviour(config, env_spec, rssm.features).to(device, dtype)
                rate, ends, limit = (getattr(config.behaviour, f"return_{k}") for k in ("rate", "percentiles", "limit"))
                self.return_range = ReturnRange(rate, ends, limit, device, dtype)
            if config.plan2explore is not None:
                shape = rssm.features, rssm.stoch, self.world.action.size, config.norm, config.act
                self.disagreement = Disagreement(config.plan2explore, config.sizes, *shape).to(device, dtype)
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
        data = self._to_device(batch)
        noise = self._draw(*data.is_first.shape)
        with fast_products(self._device):
            losses, report, states = self._losses(data, noise, part)
            total = torch.stack([loss.to(self._dtype) for loss in losses.values()]).sum() / self._collective.world_size
            total.backward()  # type: ignore[no-untyped-call]
        report |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        metrics = self._reduce_and_step(report)
        self.updates += 1
        if self.behaviour is not None and part is None and self.updates % self.behaviour.config.slow_every == 0:
            self.behaviour.move_slow_value()
        return UpdateResult(metrics, writebacks=self._writebacks(states))

    def export_weights(self) -> dict[str, NDArray[Any]]:
        """Encoder, latent dynamics, the heads a plan is scored by, and the policy; see actors.latent_policy."""
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
        parts: dict[str, nn.Module] = {"world_model": self.world}
        if self.behaviour is not None:
            parts["behaviour"] = self.behaviour
        paths = []
        for name, module in parts.items():
            paths.append(directory / f"{name}.pt")
            torch.save(module.state_dict(), paths[-1])
        return paths

    def state_dict(self) -> dict[str, Any]:
        """Modules, optimisers, the range of the returns, the generator and the count of updates."""
        state: dict[str, Any] = {
            "modules": {
                name: {key: value.clone() for key, value in module.state_dict().items()}
                for name, module in self._modules().items()
            },
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }
        if self.behaviour is not None:
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
        if self.behaviour is not None:
            self.return_range.average.copy_(state["return_range"])

    def _modules(self) -> dict[str, nn.Module]:
        named = {"world": self.world, "behaviour": self.behaviour, "disagreement": self.disagreement}
        return {name: module for name, module in named.items() if module is not None}

    def _make_optimizers(self) -> list[Optimizer]:
        """One optimiser for everything, but for the actor and the critic if they have their own."""
        config, shared = self.config, list(self.world.parameters())
        if self.disagreement is not None:
            shared += self.disagreement.parameters()
        optimizers = []
        if self.behaviour is not None:
            parts = (config.actor_optimizer, self.behaviour.policy), (config.critic_optimizer, self.behaviour.value)
            for own, module in parts:
                if own is None:
                    shared += module.parameters()
                else:
                    optimizers.append(Optimizer(own, module.parameters()))
        return [Optimizer(config.optimizer, shared), *optimizers]

    def _to_device(self, batch: SequenceBatch) -> DreamerBatch:
        """The trained steps of a batch on the device, with the state and the action before the first."""
        context = self.config.context
        if batch.shape[1] < context + 1:
            raise ValueError(f"sequences need at least {context + 1} steps, got {batch.shape[1]}")
        tensors = batch_tensors(batch, self._device)
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
            self._stored_state(tensors) if context else self.world.rssm.initial(len(action)),
        )

    def _stored_state(self, tensors: Mapping[str, Tensor]) -> State:
        """The latent state of the last context step."""
        deter, stoch = (tensors[key][:, self.config.context - 1] for key in LATENT_KEYS)
        return State(deter.to(self._dtype), self.world.rssm.unpack(stoch).to(self._dtype))

    def _writebacks(self, states: State) -> dict[str, NDArray[Any]]:
        """The new latent states of the trained steps."""
        if not self.config.store_latents:
            return {}
        new = states.deter.to(torch.float16), self.world.rssm.pack(states.stoch)
        return {key: value.cpu().numpy() for key, value in zip(LATENT_KEYS, new, strict=True)}

    def _draw(self, batch: int, steps: int) -> Noise:
        """This rank's rows of the noise for the batch of all ranks."""
        config = self.config
        everyone = batch * self._collective.world_size
        low = batch * self._collective.rank
        horizon = 0 if config.behaviour is None else config.behaviour.horizon
        options: dict[str, Any] = {"generator": self.generator, "device": self._device, "dtype": self._dtype}
        draw = torch.rand if config.rssm.latent == "categorical" else torch.randn
        posterior = draw(everyone, steps, config.rssm.groups, **options)[low : low + batch]
        prior = draw(horizon, everyone, steps, config.rssm.groups, **options)[:, low : low + batch]
        if self.world.action.spec.is_discrete:
            action = torch.rand(horizon, everyone, steps, **options)[:, low : low + batch]
        else:
            action = torch.randn(horizon, everyone, steps, self.world.action.size, **options)[:, low : low + batch]
        return Noise(posterior, prior.flatten(1, 2), action.flatten(1, 2))

    def _losses(
        self, data: DreamerBatch, noise: Noise, part: Part | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], State]:
        """Weighted losses, further figures, and the posterior states [B, T, ...] without gradients."""
        with autocast(self._device, self._precision):
            losses, report, states = self._world_losses(data, noise)
            if self.disagreement is not None:
                losses["disagreement"] = self._disagreement_loss(data, states.detach())
            if self.behaviour is not None and part is None:
                more, figures = self._behaviour_losses(self.behaviour, data, states, noise)
                losses, report = losses | more, report | figures
        return losses, report, states.detach()

    def _world_losses(self, data: DreamerBatch, noise: Noise) -> tuple[dict[str, Tensor], dict[str, Tensor], State]:
        world, weights = self.world, self.config.losses
        states, statistics = world.observe(
            data.observation, data.previous_action, data.is_first, data.start, noise.posterior
        )
        posterior, prior = world.rssm.latent(statistics), world.rssm.latent(world.rssm.prior(states.deter))
        sides = kl_balance(posterior, prior)
        dynamics, representation = (
            free_nats(kl, weights.free_nats, weights.free_nats_of == "step", self._collective) for kl in sides
        )
        flat = State(states.deter.flatten(0, 1), states.stoch.flatten(0, 1))
        observation = {key: values.flatten(0, 1) for key, values in data.observation.items()}
        losses = {
            f"reconstruction/{key}": weights.reconstruction * loss.mean()
            for key, loss in world.decoder.losses(flat, observation).items()
        }
        features = states.features
        losses["reward"] = weights.reward * world.reward(features).loss(data.reward).mean()
        if world.continuation is not None:
            target = 1.0 - data.is_terminal.to(self._dtype)
            behaviour = self.config.behaviour
            if behaviour is not None and behaviour.discount_in_continuation:
                target = target * behaviour.discount
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

    def _consistency_loss(self, data: DreamerBatch, states: State, statistics: Tensor, noise: Noise) -> Tensor:
        """KL of states predicted `consistency_steps` ahead, without observations, to the posterior met there.

        A latent overshooting (Hafner et al. 2019, eq. 7) of one distance; sequences that cross an episode's end do
        not count.
        """
        ahead, rssm = self.config.losses.consistency_steps, self.world.rssm
        length = data.is_first.shape[1] - ahead
        if length < 1:
            raise ValueError(f"consistency_steps {ahead} needs sequences of more than {ahead} steps")
        state = State(states.deter[:, :length].flatten(0, 1), states.stoch[:, :length].flatten(0, 1))
        inside = torch.ones_like(data.is_first[:, :length])
        for k in range(1, ahead + 1):
            later = slice(k, k + length)
            inside = inside & ~data.is_first[:, later]
            state = rssm.step(
                state, data.previous_action[:, later].flatten(0, 1), noise.posterior[:, later].flatten(0, 1)
            )
        expected = rssm.latent(rssm.prior(state.deter))
        met = rssm.latent(statistics[:, ahead:].detach().flatten(0, 1))
        return (met.kl(expected) * inside.flatten().to(self._dtype)).mean()

    def _disagreement_loss(self, data: DreamerBatch, states: State) -> Tensor:
        assert self.disagreement is not None
        following = (~data.is_first[:, 1:]).to(self._dtype)
        loss = self.disagreement.loss(states.features[:, :-1], data.action[:, :-1], states.stoch[:, 1:])
        return (loss * following).mean()

    def _behaviour_losses(
        self, behaviour: Behaviour, data: DreamerBatch, states: State, noise: Noise
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Imagined sequences are time-major, so that networks read contiguous rows whichever steps are left out."""
        config = behaviour.config
        start = State(states.deter.detach().flatten(0, 1), states.stoch.detach().flatten(0, 1))
        through_dynamics = config.reinforce < 1.0
        fixed = [module for name, module in self._modules().items() if name != "behaviour"]
        fixed += [behaviour.value, behaviour.slow_value]
        with torch.set_grad_enabled(through_dynamics), frozen(*fixed):
            features, action = self._imagine(behaviour.policy, start, noise)  # [H + 1, N, D + S], [H, N, A]
            continuation = self.world.predict_continuation(features)
            reward = self._imagined_reward(features, action)
        visited = features[:-1].detach()
        value = behaviour.value(visited)
        with torch.set_grad_enabled(through_dynamics), frozen(*fixed):
            target_value = self._target_value(behaviour, features, value)
            predicted = config.discount_in_continuation and self.world.continuation is not None
            discount = 1.0 if predicted else config.discount
            returns = lambda_returns(
                reward.T, continuation.T * discount, target_value.T, config.lambda_, torch.ones_like(continuation.T)
            ).T
        weight = cumulative_weight(continuation.detach().T, discount).T[:-1]
        scale = self.return_range.update(returns.detach(), self._collective) if config.normalise_returns else 1.0
        advantage = (returns.detach() - target_value.detach()[:-1]) / scale
        actor, entropy = actor_loss(
            behaviour.policy(visited), action, returns / scale, advantage, weight, config.reinforce, config.entropy
        )
        slow = behaviour.slow_value(visited).mean if config.slow_regulariser > 0.0 else advantage
        losses = {
            "actor": actor.mean(),
            "critic": (weight * critic_loss(value, returns.detach(), slow, config.slow_regulariser)).mean(),
        }
        replayed, continues = self._replayed_returns(behaviour, data, returns.detach()[0])
        if config.replay_value > 0.0:
            losses["replay_value"] = config.replay_value * self._replay_value_loss(
                behaviour, states.features, replayed, continues
            )
        report = {
            "policy_entropy": entropy.detach().mean(),
            "imagined/reward": reward.detach().mean(),
            "imagined/return": returns.detach().mean(),
            "imagined/value": target_value.detach().mean(),
            "imagined/continuation": continuation.detach().mean(),
            "replayed/reward": data.reward.mean(),
            "replayed/return": self._masked_mean(replayed, continues),
        }
        if config.normalise_returns:
            report["return_scale"] = torch.as_tensor(scale)
        return losses, report

    def _imagine(self, policy: PolicyHead, start: State, noise: Noise) -> tuple[Tensor, Tensor]:
        """H steps of the policy in the latent dynamics: features [H + 1, N, D + S] and actions [H, N, A]."""
        state, features, actions = start, [start.features], []
        for noises in zip(noise.prior, noise.action, strict=True):
            state, next_features, action = self._imagined_step(self.world.rssm, policy, state, features[-1], *noises)
            features.append(next_features)
            actions.append(action)
        return torch.stack(features), torch.stack(actions)

    def _target_value(self, behaviour: Behaviour, features: Tensor, value: TwoHot | Regression) -> Tensor:
        """Values [H + 1, N] to bootstrap from; `value` is the critic's distribution of all states but the last."""
        if behaviour.config.slow_target:
            return behaviour.slow_value(features).mean  # type: ignore[no-any-return]
        if behaviour.config.reinforce < 1.0:
            return behaviour.value(features).mean  # type: ignore[no-any-return]
        return torch.cat([value.mean, behaviour.value(features[-1:]).mean])

    def _imagined_reward(self, features: Tensor, action: Tensor) -> Tensor:
        """[H + 1, N] received on arriving at each imagined state."""
        plan2explore = self.config.plan2explore
        if plan2explore is None or self.disagreement is None:
            return self.world.reward(features).mean  # type: ignore[no-any-return]
        surprise = self.disagreement.reward(features[:-1], action)
        intrinsic = plan2explore.intrinsic * F.pad(surprise, (0, 0, 1, 0))
        if plan2explore.extrinsic == 0.0:
            return intrinsic
        return intrinsic + plan2explore.extrinsic * self.world.reward(features).mean  # type: ignore[no-any-return]

    def _replayed_returns(self, behaviour: Behaviour, data: DreamerBatch, first: Tensor) -> tuple[Tensor, Tensor]:
        """Returns of replayed rewards, bootstrapped from imagined returns `first` [N], and where the sequence goes on.

        Both are [B, T - 1].
        """
        config = behaviour.config
        discount = config.discount * (1.0 - data.is_terminal.to(self._dtype))
        continuation = 1.0 - data.is_last.to(self._dtype)
        returns = lambda_returns(data.reward, discount, first.view(data.reward.shape), config.lambda_, continuation)
        return returns, continuation[:, :-1]

    def _masked_mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """The mean of values over where the mask of their shape is 1, over all ranks."""
        total, count = self._collective.mean(torch.stack([(values * mask).mean(), mask.mean()]))
        return total / count.clamp(min=torch.finfo(count.dtype).tiny)  # type: ignore[no-any-return]

    def _replay_value_loss(
        self, behaviour: Behaviour, features: Tensor, returns: Tensor, continuation: Tensor
    ) -> Tensor:
        """The critic's loss on replayed returns [B, T - 1], where the sequence goes on."""
        config = behaviour.config
        visited = (features if config.value_gradient_to_model else features.detach())[:, :-1]
        with torch.no_grad():
            slow = behaviour.slow_value(visited).mean
        loss = critic_loss(behaviour.value(visited), returns, slow, config.slow_regulariser)
        return (continuation * loss).mean()

    def _reduce_and_step(self, report: dict[str, Tensor]) -> dict[str, float]:
        """Sum gradients over the ranks, average the figures, step the optimisers, read the figures."""
        gradients = [p.grad for optimizer in self.optimizers for p in optimizer.parameters if p.grad is not None]
        figures = torch.stack([value.to(self._dtype) for value in report.values()]) / self._collective.world_size
        self._collective.sum_([*gradients, figures])
        rate = learning_rate(self.config.optimizer, self.optimizers[0].step_count)
        norm = self.optimizers[0].step()
        for optimizer in self.optimizers[1:]:  # of actor and critic
            if any(parameter.grad is not None for parameter in optimizer.parameters):
                optimizer.step()
        values = torch.cat([figures, norm[None].to(self._dtype)]).tolist()
        metrics = dict(zip([*report, "gradient_norm"], values, strict=True))
        metrics["loss"] = sum(value for name, value in metrics.items() if name.startswith("loss/"))
        metrics["learning_rate"] = rate
        return metrics


def imagined_step(
    rssm: Rssm, policy: PolicyHead, state: State, features: Tensor, latent_noise: Tensor, action_noise: Tensor
) -> tuple[State, Tensor, Tensor]:
    """A step of the policy in the latent dynamics: the next state, its features and the action [N, A] taken."""
    action = policy(features.detach()).sample(action_noise)
    state = rssm.step(state, action.to(state.deter.dtype), latent_noise)
    return state, state.features, action


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within the context, what is computed with the modules gives their parameters no gradients."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
