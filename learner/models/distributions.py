"""Distributions and losses of the Dreamer heads.

Every class wraps the output of a network, and computes in float32 whatever the width of that output (in float64 where
it is float64). `loss` is a negative log-likelihood up to a constant, or the regression loss that stands for one.
Samplers take their noise as an argument, so that a caller decides where randomness comes from. Losses are summed over
the features of a step.

Letters: ... any leading axes, A action size or number of actions, C classes, K bins.
"""

from __future__ import annotations

import math
from copy import copy
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is that already: bfloat16 has no probability between 0.996 and 1."""
    return x if x.dtype == torch.float64 else x.float()


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|) (Hafner et al. 2025, eq. 9)."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(x.abs())


def symexp_bins(count: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """`count` (odd) bins, symmetric about 0 and equally spaced in symlog space over [-20, 20]."""
    half = symexp(torch.linspace(-20.0, 0.0, count // 2 + 1, device=device, dtype=torch.float64))
    return torch.cat([half, -half[:-1].flip(0)]).to(dtype)


class Distribution(Protocol):
    """What a head predicts about each step."""

    @property
    def mean(self) -> Tensor: ...
    def loss(self, target: Tensor) -> Tensor: ...


class TwoHot:
    """A categorical over bins, trained on the two bins next to the target (Hafner et al. 2025, eq. 10 and 11).

    Args:
        logits: [..., K].
        bins: [K] ascending and symmetric about 0.
    """

    def __init__(self, logits: Tensor, bins: Tensor) -> None:
        self.logits = widened(logits)
        self.bins = bins

    @property
    def mean(self) -> Tensor:
        """Expectation [...]; masses of mirrored bins are subtracted before they are summed, so that equals cancel."""
        half = len(self.bins) // 2
        mass = torch.softmax(self.logits, -1)
        return ((mass[..., half + 1 :] - mass[..., :half].flip(-1)) * self.bins[half + 1 :]).sum(-1)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy [...] against the two-hot code of target [...]."""
        return self.losses([target], [1.0])

    def losses(self, targets: list[Tensor], weights: list[float]) -> Tensor:
        """Weighted sum [...] of the losses against several targets."""
        indices, masses = [], []
        for target, weight in zip(targets, weights, strict=True):
            lower, upper_mass = two_hot(target, self.bins)
            indices += [lower, lower + 1]
            masses += [weight * (1.0 - upper_mass), weight * upper_mass]
        log_probs = torch.log_softmax(self.logits, -1)
        return -(log_probs.gather(-1, torch.stack(indices, -1)) * torch.stack(masses, -1)).sum(-1)


def two_hot(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Index [...] of the bin below each target, and the mass [...] of the bin above it; the rest is on the bin below.

    Targets beyond the bins get all mass on the outermost one.
    """
    lower = (torch.searchsorted(bins, target.contiguous(), right=True) - 1).clamp_(0, len(bins) - 2)
    below, above = bins[lower], bins[lower + 1]
    return lower, ((target - below) / (above - below)).clamp_(0.0, 1.0)


class Regression:
    """A mean trained by squared error: twice the loss of a Gaussian of unit variance.

    Args:
        prediction: [..., ...] of the target's shape, in the space of `squash`.
        event_dims: Trailing axes to sum the loss over.
        squash: Whether prediction is the symlog of the mean.
    """

    def __init__(self, prediction: Tensor, event_dims: int, squash: bool = False) -> None:
        self.prediction = widened(prediction)
        self._dims, self._squash = tuple(range(-event_dims, 0)), squash

    @property
    def mean(self) -> Tensor:
        return symexp(self.prediction) if self._squash else self.prediction

    def loss(self, target: Tensor) -> Tensor:
        """Squared error summed over the event."""
        error = (self.prediction - (symlog(target) if self._squash else target)).square()
        return error.sum(self._dims) if self._dims else error


class Bernoulli:
    """A coin per step, trained on probabilities.

    Args:
        logit: [...].
    """

    def __init__(self, logit: Tensor) -> None:
        self.logit = widened(logit)

    @property
    def mean(self) -> Tensor:
        """Probability [...]."""
        return torch.sigmoid(self.logit)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy [...] against probabilities [...]."""
        return F.binary_cross_entropy_with_logits(self.logit, target, reduction="none")


class Ids:
    """Categorical ids, as one-hot vectors side by side.

    Args:
        logits: [..., D] of all ids.
        num_values: Values of each id.
    """

    def __init__(self, logits: Tensor, num_values: int) -> None:
        wide = widened(logits)
        self._log_probs = torch.log_softmax(wide.view(*wide.shape[:-1], -1, num_values), -1)

    @property
    def mean(self) -> Tensor:
        """Probabilities [..., D]."""
        return self._log_probs.exp().flatten(-2)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy [...] against one-hot vectors [..., D], summed over the ids."""
        return -(target * self._log_probs.flatten(-2)).sum(-1)


class Policy(Protocol):
    """A distribution over actions [..., A]; discrete ones are one-hot."""

    def mode(self) -> Tensor: ...
    def sample(self, noise: Tensor) -> Tensor: ...
    def log_prob(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...


class Normal:
    """Independent normals.

    Args:
        mean: [..., A].
        std: [..., A].
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = widened(mean), widened(std)

    def mode(self) -> Tensor:
        """[..., A]."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """[..., A] from standard normal noise [..., A]; differentiable."""
        return self.mean + self.std * noise

    def log_prob(self, action: Tensor) -> Tensor:
        """[...]."""
        scaled = (action - self.mean) / self.std
        return (-0.5 * scaled.square() - self.std.log() - 0.5 * math.log(2.0 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """[...] in nats."""
        return (self.std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


class BoundedNormal(Normal):
    """Normals with means in (-1, 1) by tanh and bounded standard deviations (Hafner et al. 2025).

    Args:
        mean: [..., A] before the tanh.
        std: [..., A] before the sigmoid.
        low: Smallest standard deviation.
        high: Largest.
    """

    def __init__(self, mean: Tensor, std: Tensor, low: float, high: float) -> None:
        super().__init__(torch.tanh(widened(mean)), (high - low) * torch.sigmoid(widened(std) + 2.0) + low)


class TanhNormal:
    """Normals squashed by tanh (Hafner et al. 2020, appendix A): 5 tanh(mean / 5), softplus deviations.

    Args:
        mean: [..., A].
        std: [..., A] before the softplus.
        low: Added to the standard deviation.
    """

    SAMPLES = 16  # of the entropy's estimate

    def __init__(self, mean: Tensor, std: Tensor, low: float) -> None:
        mean, std = widened(mean), widened(std)
        self._normal = Normal(5.0 * torch.tanh(mean / 5.0), F.softplus(std + math.log(math.expm1(5.0))) + low)

    def mode(self) -> Tensor:
        """tanh of the mean [..., A]."""
        return torch.tanh(self._normal.mean)

    def sample(self, noise: Tensor) -> Tensor:
        """[..., A] from standard normal noise [..., A]; differentiable."""
        return torch.tanh(self._normal.sample(noise))

    def log_prob(self, action: Tensor) -> Tensor:
        """[...]; actions at the border count as just inside."""
        edge = 1.0 - 1e-6
        return self._log_prob_of(torch.atanh(action.clamp(-edge, edge)))

    def entropy(self) -> Tensor:
        """[...] in nats, by quadrature at equally likely points of each normal."""
        mean = self._normal.mean
        points = (torch.arange(self.SAMPLES, device=mean.device, dtype=mean.dtype) + 0.5) / self.SAMPLES
        noise = math.sqrt(2.0) * torch.erfinv(2.0 * points - 1.0)
        return -self._log_prob_of(self._normal.sample(noise.view(-1, *[1] * mean.dim()))).mean(0)

    def _log_prob_of(self, latent: Tensor) -> Tensor:
        """[...] of actions tanh(latent)."""
        mean, std = self._normal.mean, self._normal.std
        normal = -0.5 * ((latent - mean) / std).square() - std.log() - 0.5 * math.log(2.0 * math.pi)
        jacobian = 2.0 * (math.log(2.0) - latent - F.softplus(-2.0 * latent))  # ln(1 - tanh^2)
        return (normal - jacobian).sum(-1)


class TruncatedNormal:
    """Normals between -1 and 1 (Hafner et al. 2021): means by tanh, deviations 2 sigmoid(std / 2) + low, 1 at first.

    Args:
        mean: [..., A] before the tanh.
        std: [..., A] before the sigmoid.
        low: Added to the standard deviation.
    """

    def __init__(self, mean: Tensor, std: Tensor, low: float) -> None:
        self.mean, self.std = torch.tanh(widened(mean)), 2.0 * torch.sigmoid(widened(std) / 2.0) + low
        self._ends = (-1.0 - self.mean) / self.std, (1.0 - self.mean) / self.std  # around 0: the mean is within
        self._below: Tensor = torch.special.ndtr(self._ends[0])
        self._inside: Tensor = torch.special.ndtr(self._ends[1]) - self._below  # a third at least

    def mode(self) -> Tensor:
        """[..., A]."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """[..., A] just inside (-1, 1) from standard normal noise [..., A]; differentiable."""
        tiny = torch.finfo(self.mean.dtype).eps
        share = self._below + self._inside * torch.special.ndtr(noise.to(self.mean.dtype))
        action: Tensor = self.mean + self.std * torch.special.ndtri(share.clamp(tiny, 1.0 - tiny))
        edge = 1.0 - 1e-6
        return action + (action.clamp(-edge, edge) - action).detach()

    def log_prob(self, action: Tensor) -> Tensor:
        """[...]."""
        return Normal(self.mean, self.std).log_prob(action) - self._inside.log().sum(-1)

    def entropy(self) -> Tensor:
        """[...] in nats."""
        low, high = (end * torch.exp(-0.5 * end.square()) for end in self._ends)
        lost = (low - high) / (2.0 * math.sqrt(2.0 * math.pi) * self._inside)
        return Normal(self.mean, self.std).entropy() + (self._inside.log() + lost).sum(-1)


class PartlyFixed:
    """A policy over some dimensions of an action; the others are always 0.

    Args:
        policy: Over the free dimensions.
        free: Their indices.
        size: Dimensions of the action, A.
    """

    def __init__(self, policy: Policy, free: list[int], size: int) -> None:
        self._policy, self._free, self._size = policy, free, size

    def mode(self) -> Tensor:
        """[..., A]."""
        return self._whole(self._policy.mode())

    def sample(self, noise: Tensor) -> Tensor:
        """[..., A] from standard normal noise [..., A]; differentiable."""
        return self._whole(self._policy.sample(noise[..., self._free]))

    def log_prob(self, action: Tensor) -> Tensor:
        """[...]."""
        return self._policy.log_prob(action[..., self._free])

    def entropy(self) -> Tensor:
        """[...] in nats, of the free dimensions."""
        return self._policy.entropy()

    def _whole(self, action: Tensor) -> Tensor:
        whole = action.new_zeros((*action.shape[:-1], self._size))
        whole[..., self._free] = action
        return whole


class OneHot:
    """A categorical over C classes with a share of uniform probability; samples are one-hot and straight-through.

    Args:
        logits: [..., C].
        unimix: Share of the uniform distribution in the mixture (Hafner et al. 2025, p. 3).
    """

    def __init__(self, logits: Tensor, unimix: float = 0.0) -> None:
        wide = widened(logits)
        self.probs = _softmax(wide)
        if unimix > 0.0:
            self.probs = torch.add(unimix / logits.shape[-1], self.probs, alpha=1.0 - unimix)
        self._logits = None if unimix > 0.0 else wide

    @cached_property
    def log_probs(self) -> Tensor:
        """[..., C]."""
        return self.probs.log() if self._logits is None else torch.log_softmax(self._logits, -1)

    def detach(self) -> OneHot:
        """The same distribution without gradients."""
        other = copy(self)
        other.probs, other.log_probs = self.probs.detach(), self.log_probs.detach()
        return other

    def mode(self) -> Tensor:
        """[..., C]."""
        return F.one_hot(self.probs.argmax(-1), self.probs.shape[-1]).to(self.probs.dtype)

    def sample(self, noise: Tensor) -> Tensor:
        """[..., C] from noise [...] uniform in [0, 1), by inversion; the gradient is that of the probabilities."""
        probs = self.probs.detach()
        passed = (probs.cumsum(-1)[..., :-1] <= noise.unsqueeze(-1)).to(probs.dtype)  # 1s, then 0s
        hard = F.pad(passed, (1, 0), value=1.0) - F.pad(passed, (0, 1))
        return hard + (self.probs - probs) if self.probs.requires_grad else hard

    def log_prob(self, action: Tensor) -> Tensor:
        """[...] of one-hot actions."""
        return (self.log_probs * action).sum(-1)

    def entropy(self) -> Tensor:
        """[...] in nats."""
        return -(self.probs * self.log_probs).sum(-1)


def _softmax(logits: Tensor) -> Tensor:
    """torch.softmax over the last axis, without its cost per row on a CPU, which is most of it where rows are short."""
    if logits.shape[-1] >= 16 or not logits.is_cpu or logits.requires_grad:
        return torch.softmax(logits, -1)
    masses = (logits - logits.amax(-1, keepdim=True)).exp_()
    return masses.div_(masses.sum(-1, keepdim=True))
