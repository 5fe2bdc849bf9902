"""Deterministic and Gaussian MLP ensembles as one batched module.

A member predicts the change of the state, the reward and optionally the termination of one step. All K members
are evaluated by one batched matrix product per layer. `Ensemble.export` writes the record that planners consume.

Every one-step model is observed, imagined, decoded and asked for its uncertainty by the same four methods; here the
latent is the state itself, in `learner.models.latent_ensemble` a code of the observation.

Letters: K members, N rows, S state size, A action size, D = S + 1 predicted quantities (delta state, then reward).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.models.ensemble_config import EnsembleConfig
from learner.models.normaliser import RunningNormaliser
from learner.models.uncertainty import Uncertainty, decompose

_OUTPUT_GAIN = 0.3
"""Initial outputs are small against the normalised targets, yet differ between members."""
_RESOLUTION = 1e-7
"""Of float32: deviations that are smaller than this share of the mean are rounding."""
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "relu": F.relu, "tanh": torch.tanh, "elu": F.elu}


@dataclass(frozen=True)
class EnsemblePrediction:
    """One step predicted by every member."""

    mean: Tensor  # [K, N, D] delta state and reward; normalised or physical units, see the method that made it
    logvar: Tensor | None  # [K, N, D] log-variance in the same units, None for deterministic members
    done_logit: Tensor | None  # [K, N] logit of termination, None without a termination output
    degrees: float | None = None  # of the Student t around the mean, None for a normal


@dataclass(frozen=True)
class Imagined:
    """One imagined step of every member."""

    latent: Tensor  # [K, N, L] the next latent; of a model without a coder the next state
    reward: Tensor  # [K, N]
    continuation: Tensor  # [K, N] probability that the episode goes on
    prediction: EnsemblePrediction  # what it was drawn from, in physical units


class Ensemble(nn.Module):
    """K MLPs with their own weights and a shared normalisation.

    Args:
        config: Shape of the members.
        state_size: S.
        action_size: A.
        seed: Seed of the initial weights; members differ.
    """

    input_shift: Tensor
    input_scale: Tensor
    output_shift: Tensor
    output_scale: Tensor
    is_coded = False
    """Whether latents are codes of observations instead of observations."""

    def __init__(self, config: EnsembleConfig, state_size: int, action_size: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.state_size = state_size
        self.action_size = action_size
        self.target_size = state_size + 1
        sizes = [state_size + action_size, *config.hidden, self.output_size]
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            weight = torch.randn(config.members, fan_in, fan_out, generator=generator) * (2.0 / fan_in) ** 0.5
            if config.orthogonal:
                weight = _orthogonal(weight)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(config.members, fan_out)))
        with torch.no_grad():
            self.weights[-1].mul_(_OUTPUT_GAIN)
            if config.hidden:
                self.biases[0].copy_(_spread_biases(self.weights[0], config.bias_spread, generator))
        if config.gaussian:
            self.min_logvar = nn.Parameter(torch.full((self.target_size,), config.min_logvar))
            self.max_logvar = nn.Parameter(torch.full((self.target_size,), config.max_logvar))
        self.input_statistics = RunningNormaliser(sizes[0])
        self.output_statistics = RunningNormaliser(self.target_size)
        for name, size in (("input", sizes[0]), ("output", self.target_size)):
            self.register_buffer(f"{name}_shift", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    @property
    def output_size(self) -> int:
        """Number of network outputs of a member: means, log-variances if Gaussian, logit if termination."""
        return self.target_size * (2 if self.config.gaussian else 1) + int(self.config.termination)

    @property
    def normalisers(self) -> list[RunningNormaliser]:
        """Running statistics, which stay in double precision."""
        return [self.input_statistics, self.output_statistics]

    def refresh_scales(self) -> None:
        """Take the normalisation from the running statistics; without any it stays as it is."""
        if self.input_statistics.count == 0:
            return
        floor = self.config.min_std
        (input_mean, input_std), (output_mean, output_std) = (
            statistics.moments() for statistics in (self.input_statistics, self.output_statistics)
        )
        varies = input_std > (input_mean.abs() * _RESOLUTION).clamp(min=floor)
        self.input_shift.copy_(input_mean)
        self.input_scale.copy_(torch.where(varies, 1.0 / input_std.clamp(min=floor), 1.0))
        self.output_shift.copy_(output_mean)
        self.output_scale.copy_(output_std.clamp(min=floor))

    def forward(self, state: Tensor, action: Tensor) -> EnsemblePrediction:
        """Predict one step in normalised units (those of `normalise_target`).

        Args:
            state: [N, S] seen by every member, or [K, N, S].
            action: [N, A] or [K, N, A].
        """
        x = (torch.cat([state, action], dim=-1) - self.input_shift) * self.input_scale
        if x.dim() == 2:
            x = x.unsqueeze(0).expand(self.config.members, -1, -1)
        activation = _ACTIVATIONS[self.config.activation]
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias.unsqueeze(1), x, weight)
            if index < last:
                x = activation(x)
        return self._split(x.to(state.dtype))  # bf16 under autocast, but losses and integration need the full width

    def predict(self, state: Tensor, action: Tensor) -> EnsemblePrediction:
        """Like `forward`, in physical units: mean of (delta state, reward), log-variance, logit."""
        out = self.forward(state, action)
        logvar = None if out.logvar is None else out.logvar + 2.0 * self.output_scale.log()
        return replace(out, mean=out.mean * self.output_scale + self.output_shift, logvar=logvar)

    def observe(self, observation: Tensor) -> Tensor:
        """Flat observations [N, S] -> the latents [N, L] that are imagined from; here the observations themselves."""
        return observation

    def imagine(self, latent: Tensor, action: Tensor, noise: Tensor | None = None) -> Imagined:
        """One step of every member, in physical units.

        Args:
            latent: [N, L], or [K, N, L] if every member goes on from its own.
            action: [N, A] or [K, N, A].
            noise: [K, N, D] standard normal, with which Gaussian members draw; None for their means.
        """
        out = self.predict(latent, action)
        sample = out.mean
        if noise is not None and out.logvar is not None:
            sample = sample + torch.exp(0.5 * out.logvar) * noise
        reward = sample[..., -1]
        ends = torch.zeros_like(reward) if out.done_logit is None else torch.sigmoid(out.done_logit)
        return Imagined(latent + sample[..., :-1], reward, 1.0 - ends, out)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [..., L] -> flat observations [..., S]."""
        return latent

    def uncertainty(self, latent: Tensor, action: Tensor) -> Uncertainty:
        """Epistemic and aleatoric variances [N, D] of one step from latents [N, L], in physical units squared."""
        out = self.predict(latent, action)
        return decompose(out.mean, out.logvar)

    def normalise_target(self, target: Tensor) -> Tensor:
        """(delta state, reward) [..., D] in the units of `forward`."""
        return (target - self.output_shift) / self.output_scale

    def _split(self, output: Tensor) -> EnsemblePrediction:
        size = self.target_size
        mean, logvar, done = output[..., :size], None, None
        if self.config.gaussian:
            logvar = clamp_logvar(output[..., size : 2 * size], self.min_logvar, self.max_logvar)
        if self.config.termination:
            done = output[..., -1]
        return EnsemblePrediction(mean, logvar, done, self.config.degrees)

    def export(self) -> dict[str, NDArray[Any]]:
        """The weights record of planners: arrays only, float32 unless integer, safe to keep while training goes on."""
        record: dict[str, NDArray[Any]] = {}
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            record[f"weight_{index}"] = as_float32(weight)
            record[f"bias_{index}"] = as_float32(bias)
        for name in ("input_shift", "input_scale", "output_shift", "output_scale"):
            record[name] = as_float32(getattr(self, name))
        if self.config.gaussian:
            record["min_logvar"] = as_float32(self.min_logvar)
            record["max_logvar"] = as_float32(self.max_logvar)
        record["activation"] = np.frombuffer(self.config.activation.encode("ascii"), np.uint8).copy()
        record["gaussian"] = np.asarray(int(self.config.gaussian), np.int64)
        record["has_termination"] = np.asarray(int(self.config.termination), np.int64)
        return record

    def recipe(self) -> dict[str, Any]:
        """What `load_member` needs besides the tensors."""
        return {"config": asdict(self.config), "state_size": self.state_size, "action_size": self.action_size}

    def member_state_dict(self, member: int) -> dict[str, Tensor]:
        """The tensors of one member as the state dict of a one-member ensemble.

        Raises:
            ValueError: If there is no such member.
        """
        if not 0 <= member < self.config.members:
            raise ValueError(f"member must be in [0, {self.config.members}), got {member}")
        members = ("weights.", "biases.")  # what is left belongs to all of them
        return {
            name: (value[member : member + 1] if name.startswith(members) else value).detach().cpu().clone()
            for name, value in self.state_dict().items()
        }


def clamp_logvar(logvar: Tensor, minimum: Tensor, maximum: Tensor) -> Tensor:
    """Soft bounds of PETS (Chua et al. 2018, appendix A.1): differentiable in the bounds as well."""
    logvar = maximum - F.softplus(maximum - logvar)
    return minimum + F.softplus(logvar - minimum)


def _orthogonal(weight: Tensor) -> Tensor:
    """[K, in, out] with orthogonal rows or columns, from normal random numbers (Saxe et al. 2014)."""
    tall = weight if weight.shape[1] >= weight.shape[2] else weight.transpose(1, 2)
    basis, r = torch.linalg.qr(tall)
    q: Tensor = basis * torch.sign(torch.diagonal(r, dim1=1, dim2=2)).unsqueeze(1)
    return q if weight.shape[1] >= weight.shape[2] else q.transpose(1, 2)


def _spread_biases(weight: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Biases [K, out] of units with weights [K, in, out] that are zero at points uniform in [-spread, spread]^in."""
    points = (torch.rand(weight.shape, generator=generator) * 2.0 - 1.0) * spread
    return -(weight * points).sum(1)


def as_float32(value: Tensor) -> NDArray[np.float32]:
    """A copy of a tensor as an array."""
    return np.array(value.detach().to("cpu", torch.float32).numpy(), order="C", copy=True)
