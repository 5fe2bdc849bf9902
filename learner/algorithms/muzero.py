"""MuZero (Schrittwieser et al. 2020): a model that predicts what a search needs, learned from what searches found.

An update (1) represents the first step of every sequence and unrolls the model over its actions, (2) makes the targets
from the stored rewards and searches, (3) sums the losses of reward, value and policy, and of the consistency where
there is one, and (4) takes one step of the optimiser, if losses and gradients are finite. N ranks of B / N sequences
take the step of one rank with B.

Letters: B sequences of this rank, T steps, K unrolled steps, N actions searched, A action size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.specs import EnvSpec
from learner.algorithms.base import Part, UpdateResult, nonfinite
from learner.algorithms.muzero_config import MuZeroConfig
from learner.batch import SequenceBatch
from learner.checkpoint import save_tensors
from learner.collective import Collective, current
from learner.device import autocast, batch_tensors, fast_products, to_device
from learner.learner_config import Precision
from learner.losses.muzero import (
    Positions,
    Returns,
    Targets,
    consistency_loss,
    mixed_targets,
    n_step_returns,
    policy_loss,
    positions,
    scale_gradient,
    step_weights,
    targets,
)
from learner.models.distributions import OneHot, Policy
from learner.models.muzero import MuZeroModel
from learner.models.muzero_scalar import Scalar, saturated
from learner.optim import Optimizer, learning_rate
from learner.searched import FRESH_VERSION, SEARCH_ACTIONS, SEARCH_POLICY, SEARCH_VALUE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unroll:
    """What the model predicts of an unroll, time-major."""

    state: Tensor  # [K + 1, B, D, ...]
    reward: Scalar  # [K, B], or the value prefix
    value: Scalar  # [K + 1, B]
    policy: Policy  # [K + 1, B]


class MuZeroAlgorithm:
    """See the module.

    Args:
        config: What to learn and how.
        env_spec: The environment.
        device: Where to compute.
        seed: Seed of the initial weights and of the actions in absorbing states.
        precision: "bf16" computes matrix products in bfloat16; weights, norms and losses stay in full width.
        collective: The ranks that share the work, by default the process group this process has joined.
        dtype: Width of weights and losses.
        priorities: Whether updates give priorities.
        fresh_fraction: Share of the sequences of an update that are trained towards the targets of later searches,
            where they have any; see `actors.reanalyze`.

    Raises:
        ValueError: The environment does not fit the configuration.
    """

    def __init__(
        self,
        config: MuZeroConfig,
        env_spec: EnvSpec,
        device: torch.device,
        seed: int,
        precision: Precision = "fp32",
        collective: Collective | None = None,
        dtype: torch.dtype = torch.float32,
        priorities: bool = False,
        fresh_fraction: float = 0.0,
    ) -> None:
        self.config, self._fresh_fraction = config, fresh_fraction
        self._gives_priorities = priorities
        self._device, self._precision, self._dtype = device, precision, dtype
        self._collective = collective or current()
        self.generator = torch.Generator(device).manual_seed(seed % 2**63)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            self.model = MuZeroModel(config.model, env_spec).to(device, dtype)
            self.target = MuZeroModel(config.model, env_spec).to(device, dtype).requires_grad_(False)
        self.target.load_state_dict(self.model.state_dict())
        self.optimizer = Optimizer(config.optimizer, self.model.parameters())
        self.updates = 0
        self._warned = False

    def update(self, batch: SequenceBatch, part: Part | None = None) -> UpdateResult:
        """One step of the optimiser.

        Args:
            batch: Sequences of at least K + 1 steps with the statistics of their searches; the value target of
                position k needs k + td_steps + 1 steps to be whole.
            part: Changes nothing: the model is all that is learned.

        Returns:
            The losses, and perhaps the error of the root's value [B] as priorities.
        """
        random = self.generator.get_state()
        data, age = self._mix(batch, batch_tensors(batch, self._device))
        unroll = self.config.unroll_steps
        place = positions(data["is_first"], data["is_last"], data["is_terminal"], unroll)
        wanted = self._targets(data, place)
        weight = self._weights(batch)
        with fast_products(self._device):
            predicted = self._unroll(data, place)
            losses, report = self._losses(data, predicted, wanted, weight)
            total = torch.stack([loss.to(self._dtype) for loss in losses.values()]).sum()
            total.backward()  # type: ignore[no-untyped-call]
        error = (predicted.value.mean[0].detach() - wanted.value[:, 0]).abs()
        report |= age | {f"loss/{name}": loss.detach() for name, loss in losses.items()}
        report["weight_mean"] = to_device(batch.weight, self._device, self._dtype).mean() / self._collective.world_size
        report["priority_mean"] = error.mean() / self._collective.world_size
        metrics, norm = self._reduce(report)
        if skipped := nonfinite(metrics):
            self.generator.set_state(random)
            self.optimizer.clear()
            return UpdateResult(metrics, skipped=skipped)
        self.optimizer.step(norm)
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            self.target.load_state_dict(self.model.state_dict())
        self._warn(metrics)
        return UpdateResult(metrics, error.float().cpu().numpy() if self._gives_priorities else None)

    def export_weights(self) -> dict[str, NDArray[Any]]:
        """The model without its projection."""
        return {
            name: value.detach().float().cpu().numpy().copy()
            for name, value in self.model.state_dict().items()
            if not name.startswith("projection.")
        }

    def save_artifacts(self, directory: Path) -> list[Path]:
        """Write `muzero.pt`."""
        path = directory / "muzero.pt"
        save_tensors(path, self.model.state_dict())
        return [path]

    def state_dict(self) -> dict[str, Any]:
        """Network, target network, optimiser, generator and the number of updates."""
        modules = {"model": self.model, "target": self.target}
        return {
            "modules": {
                name: {key: value.clone() for key, value in module.state_dict().items()}
                for name, module in modules.items()
            },
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "warned": self._warned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            RuntimeError: If the sizes of the model differ.
        """
        self.model.load_state_dict(state["modules"]["model"])
        self.target.load_state_dict(state["modules"]["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["generator"].shape == self.generator.get_state().shape:  # differs between the CPU and CUDA
            self.generator.set_state(state["generator"].cpu())
        self.updates, self._warned = state["updates"], state["warned"]

    @torch.no_grad()
    def _mix(self, batch: SequenceBatch, data: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The data with the targets to learn from; this rank's share of metrics of how old those of the roots are."""
        collective, device = self._collective, self._device
        version = to_device(batch.policy_version, device, torch.int64)
        has_fresh = torch.zeros(len(version), dtype=torch.bool, device=device)
        if self._fresh_fraction > 0.0 and FRESH_VERSION in data:
            rows = len(version)
            draws = torch.rand(rows * collective.world_size, generator=self.generator, device=device)
            chosen = draws[rows * collective.rank : rows * (collective.rank + 1)] < self._fresh_fraction
            has_fresh = chosen & (data[FRESH_VERSION][:, 0] > 0)
            version = torch.where(has_fresh, data[FRESH_VERSION][:, 0].long(), version)
            data = mixed_targets(data, chosen)
        age = collective.gather((self.updates - version).clamp(min=0).to(self._dtype))
        fresh = has_fresh.to(self._dtype).mean()
        report = {"target/fresh": fresh, "target/age": age.mean(), "target/age_median": age.median()}
        report["target/age_p90"] = age.quantile(0.9)
        return data, {name: value / collective.world_size for name, value in report.items()}

    def _targets(self, data: dict[str, Tensor], place: Positions) -> Targets:
        config, reward = self.config, data["reward"].to(self._dtype)
        flags = data["is_first"], data["is_last"], data["is_terminal"]
        returns = n_step_returns(reward, *flags, config.unroll_steps, config.td_steps, config.discount)
        prefix = 0 if config.network.prefix is None else config.network.prefix.horizon
        policy = data[SEARCH_POLICY].to(self._dtype)
        return targets(reward, policy, place, returns, self._bootstrap(data, returns), prefix)

    @torch.no_grad()
    def _bootstrap(self, data: dict[str, Tensor], returns: Returns) -> Tensor:
        """Values [B, K + 1] of the steps that returns bootstrap from."""
        if self.config.bootstrap == "search":
            return data[SEARCH_VALUE].to(self._dtype).gather(1, returns.index)
        rows = torch.arange(len(returns.index), device=self._device)[:, None]
        keys = self.model.keys
        observation = {key: data[key][rows, returns.index].flatten(0, 1) for key in (*keys.images, *keys.vectors)}
        with fast_products(self._device), autocast(self._device, self._precision):
            state = self.target.represent(observation).state
            return self.target.predict(state)[1].mean.to(self._dtype).view_as(returns.index)

    def _weights(self, batch: SequenceBatch) -> Tensor:
        """Importance weights [B], 1 the largest of all ranks."""
        weight = to_device(batch.weight, self._device, self._dtype)
        return weight / self._collective.gather(weight).max()

    def _actions(self, data: dict[str, Tensor], place: Positions) -> Tensor:
        """The actions [B, K, A] of positions 0 to K - 1: those taken, and random ones after the end of the episode."""
        unroll, codec, collective = self.config.unroll_steps, self.model.action, self._collective
        taken = codec.encode(data["action"][:, :unroll], self._dtype)
        rows, size = len(taken), codec.size
        shape = rows * collective.world_size, unroll, 1 if self.model.discrete else size
        draws = torch.rand(shape, generator=self.generator, device=self._device, dtype=self._dtype)
        uniform = draws[rows * collective.rank : rows * (collective.rank + 1)]
        if self.model.discrete:
            anything = codec.encode((uniform[..., 0] * size).long().clamp(max=size - 1), self._dtype)
        else:
            anything = 2.0 * uniform - 1.0
        acted = place.inside[:, :unroll] & ~place.last[:, :unroll]
        return torch.where(acted[..., None], taken, anything)

    def _unroll(self, data: dict[str, Tensor], place: Positions) -> Unroll:
        """The model from the first steps on, along the actions."""
        model, keys = self.model, self.model.keys
        actions = self._actions(data, place)
        with autocast(self._device, self._precision):
            state = model.represent({key: data[key][:, 0] for key in (*keys.images, *keys.vectors)}).state
            states = [state]
            for action in actions.unbind(1):
                states.append(model.dynamics(state, action))
                state = scale_gradient(states[-1], 0.5)
            state = torch.stack(states)
            rows = state.flatten(0, 1)
            value, policy, reward = model.value(rows), model.policy(rows), model.reward.unroll(state[1:])
        lead = state.shape[:2]
        return Unroll(
            state,
            model.scalar_reward(reward),
            model.scalar_value(value.view(*lead, -1)),
            model.distribution(policy.view(*lead, -1)),
        )

    def _losses(
        self, data: dict[str, Tensor], predicted: Unroll, wanted: Targets, weight: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This rank's share of the weighted losses and of the report."""
        config, weights = self.config, self.config.losses
        sequences = len(weight) * self._collective.world_size
        scale = step_weights(config.unroll_steps, self._device, self._dtype)[:, None] * weight / sequences  # [K + 1, B]
        value = predicted.value.loss(wanted.value.T) * wanted.value_mask.T
        reward = predicted.reward.loss(wanted.reward.T) * wanted.reward_mask.T
        target = wanted.policy.movedim(0, 1)
        policy = policy_loss(self._log_probs(data, predicted.policy), target) * wanted.policy_mask.T
        entropy = predicted.policy.entropy() * wanted.policy_mask.T
        losses = {
            "reward": weights.reward * (scale[1:] * reward).sum(),
            "value": weights.value * (scale * value).sum(),
            "policy": weights.policy * (scale * policy).sum(),
        }
        if weights.entropy > 0.0:
            losses["entropy"] = -weights.entropy * (scale * entropy).sum()
        if weights.consistency > 0.0:
            similarity = self._consistency(data, predicted) * wanted.consistency_mask.T
            losses["consistency"] = weights.consistency * (scale[1:] * similarity).sum()
        return losses, self._report(predicted, wanted, entropy.detach())

    def _log_probs(self, data: dict[str, Tensor], policy: Policy) -> Tensor:
        """Log-probabilities [K + 1, B, N] of the actions searched; of one that there was not, that of any other."""
        searched = data[SEARCH_ACTIONS][:, : self.config.unroll_steps + 1] if SEARCH_ACTIONS in data else None
        if isinstance(policy, OneHot):
            every = policy.log_probs
            return every if searched is None else every.gather(-1, searched.transpose(0, 1).clamp(min=0))
        assert searched is not None
        actions = searched.to(self._dtype).permute(2, 1, 0, 3)  # [N, K + 1, B, A]
        return policy.log_prob(actions).movedim(0, -1)

    def _consistency(self, data: dict[str, Tensor], predicted: Unroll) -> Tensor:
        """Negative similarity [K, B] of the unrolled latents and of those of the observations there."""
        model, unroll = self.model, self.config.unroll_steps
        assert model.projection is not None
        keys = (*model.keys.images, *model.keys.vectors)
        seen = {key: data[key][:, 1 : unroll + 1].transpose(0, 1).flatten(0, 1) for key in keys}
        with autocast(self._device, self._precision):
            with torch.no_grad():
                target = model.projection(model.represent(seen).state)
            prediction = model.projection.predict(predicted.state[1:].flatten(0, 1))
        return consistency_loss(prediction, target).view(unroll, -1).to(self._dtype)

    @torch.no_grad()
    def _report(self, predicted: Unroll, wanted: Targets, entropy: Tensor) -> dict[str, Tensor]:
        """This rank's share of further metrics."""
        config = self.config
        counted = {
            "saturated/value": (saturated(wanted.value, config.value), wanted.value_mask),
            "saturated/reward": (saturated(wanted.reward, config.reward), wanted.reward_mask),
            "target/value": (wanted.value, wanted.value_mask),
            "target/reward": (wanted.reward, wanted.reward_mask),
            "predicted/value": (predicted.value.mean.T, wanted.value_mask),
            "predicted/reward": (predicted.reward.mean.T, wanted.reward_mask),
            "policy_entropy": (entropy.T, wanted.policy_mask),
            "target/policy_entropy": (_entropy(wanted.policy), wanted.policy_mask),
        }
        sums = torch.stack([(values * mask).sum() for values, mask in counted.values()])
        counts = torch.stack([mask.sum() for _, mask in counted.values()])
        self._collective.sum_([sums, counts])
        means = sums / counts.clamp(min=1.0) / self._collective.world_size
        return dict(zip(counted, means.unbind(), strict=True))

    def _reduce(self, report: dict[str, Tensor]) -> tuple[dict[str, float], Tensor]:
        """Sum gradients and the report over the ranks; the report as numbers, and the norm of the gradients."""
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        values = torch.stack([value.to(self._dtype) for value in report.values()])
        self._collective.sum_([*gradients, values])
        norm = self.optimizer.gradient_norm()
        numbers = torch.cat([values, norm[None].to(self._dtype)]).tolist()
        metrics = dict(zip([*report, "gradient_norm"], numbers, strict=True))
        metrics["loss"] = sum(value for name, value in metrics.items() if name.startswith("loss/"))
        metrics["learning_rate"] = learning_rate(self.config.optimizer, self.optimizer.step_count)
        return metrics, norm

    def _warn(self, metrics: dict[str, float]) -> None:
        """Say once that a support is too small for its targets."""
        if self._warned or self._collective.rank > 0:
            return
        for name in ("value", "reward"):
            share, support = metrics[f"saturated/{name}"], getattr(self.config, name)
            if share > self.config.saturation_limit:
                self._warned = True
                logger.warning(
                    "%.1f %% of the %s targets of update %d are beyond the support: raise algorithm.%s.limit %g",
                    100.0 * share, name, self.updates, name, support.limit,
                )  # fmt: skip


def _entropy(policy: Tensor) -> Tensor:
    """Entropy [...] of weights [..., N] in nats."""
    return torch.special.entr(policy).sum(-1)  # type: ignore[no-any-return]
