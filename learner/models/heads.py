"""Heads on latent states: reward, continuation, value and policy.

Letters: A action size or number of actions, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from envs.specs import ArraySpec
from learner.models.distributions import (
    Bernoulli,
    BoundedNormal,
    OneHot,
    Policy,
    Regression,
    TanhNormal,
    TwoHot,
    symexp_bins,
)
from learner.models.layers import ActivationName, Linear, Mlp, NormName


@dataclass(frozen=True)
class ScalarConfig:
    """A head for one number per step.

    Args:
        layers: Hidden layers.
        output: "symexp_twohot", or the mean of a squared error, "linear" or of the "symlog" of the number.
        bins: Bins of the two-hot code, odd.
        outscale: Scale of the last layer's initial weights; 0 makes every first prediction 0.
    """

    layers: int = 1
    output: Literal["symexp_twohot", "linear", "symlog"] = "symexp_twohot"
    bins: int = 255
    outscale: float = 0.0

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")
        if self.output not in ("symexp_twohot", "linear", "symlog"):
            raise ValueError(f"output must be 'symexp_twohot', 'linear' or 'symlog', got {self.output!r}")
        if self.bins < 3 or self.bins % 2 == 0:
            raise ValueError(f"bins must be odd and at least 3, got {self.bins}")
        if not self.outscale >= 0.0:
            raise ValueError(f"outscale must not be negative, got {self.outscale}")


class ScalarHead(nn.Module):
    """See ScalarConfig.

    Args:
        config: Shape.
        features: Features of a state.
        units: Features of the hidden layers.
        norm: Norm of the hidden layers.
        act: Activation of the hidden layers.
    """

    bins: Tensor

    def __init__(self, config: ScalarConfig, features: int, units: int, norm: NormName, act: ActivationName) -> None:
        super().__init__()
        self.config = config
        two_hot = config.output == "symexp_twohot"
        self.mlp = Mlp(features, units, config.layers, norm, act)
        self.out = Linear(units, config.bins if two_hot else 1, config.outscale)
        self.register_buffer("bins", symexp_bins(config.bins), persistent=False)

    def forward(self, features: Tensor) -> TwoHot | Regression:
        """features [..., D + S] -> a distribution [...]."""
        out = self.out(self.mlp(features))
        if self.config.output == "symexp_twohot":
            return TwoHot(out, self.bins)
        return Regression(out.squeeze(-1), 0, self.config.output == "symlog")


class ContinuationHead(nn.Module):
    """The probability that an episode goes on, times the discount where the targets hold it.

    Args:
        layers: Hidden layers.
        features: Features of a state.
        units: Features of the hidden layers.
        norm: Norm of the hidden layers.
        act: Activation of the hidden layers.
    """

    def __init__(self, layers: int, features: int, units: int, norm: NormName, act: ActivationName) -> None:
        super().__init__()
        self.mlp = Mlp(features, units, layers, norm, act)
        self.out = Linear(units, 1)

    def forward(self, features: Tensor) -> Bernoulli:
        """features [..., D + S] -> a distribution [...]."""
        return Bernoulli(self.out(self.mlp(features)).squeeze(-1))


@dataclass(frozen=True)
class PolicyConfig:
    """A policy head.

    Args:
        layers: Hidden layers.
        continuous: "bounded_normal" (Hafner et al. 2025) or "tanh_normal" (Hafner et al. 2020).
        min_std: Smallest standard deviation.
        max_std: Largest, of the bounded normal.
        unimix: Share of the uniform distribution in discrete policies.
        outscale: Scale of the last layers' initial weights.
        evaluation: Whether actions are sampled too when not exploring, or the mode is taken.
    """

    layers: int = 3
    continuous: Literal["bounded_normal", "tanh_normal"] = "bounded_normal"
    min_std: float = 0.1
    max_std: float = 1.0
    unimix: float = 0.01
    outscale: float = 0.01
    evaluation: Literal["sample", "mode"] = "sample"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")
        if self.evaluation not in ("sample", "mode"):
            raise ValueError(f"evaluation must be 'sample' or 'mode', got {self.evaluation!r}")
        if self.continuous not in ("bounded_normal", "tanh_normal"):
            raise ValueError(f"continuous must be 'bounded_normal' or 'tanh_normal', got {self.continuous!r}")
        if not 0.0 < self.min_std < self.max_std:
            raise ValueError(f"min_std must be in (0, max_std {self.max_std}), got {self.min_std}")
        if not 0.0 <= self.unimix < 1.0:
            raise ValueError(f"unimix must be in [0, 1), got {self.unimix}")


class PolicyHead(nn.Module):
    """See PolicyConfig; discrete where the action is, over one-hot actions.

    Args:
        config: Shape.
        action: Spec of the action.
        features: Features of a state.
        units: Features of the hidden layers.
        norm: Norm of the hidden layers.
        act: Activation of the hidden layers.
    """

    def __init__(
        self,
        config: PolicyConfig,
        action: ArraySpec,
        features: int,
        units: int,
        norm: NormName,
        act: ActivationName,
    ) -> None:
        super().__init__()
        self.config, self.discrete = config, action.is_discrete
        self.mlp = Mlp(features, units, config.layers, norm, act)
        self.out = Linear(units, action.num_values or action.size, config.outscale)
        if not self.discrete:
            self.std = Linear(units, action.size, config.outscale)

    def forward(self, features: Tensor) -> Policy:
        """features [..., D + S] -> a distribution over actions [..., A]."""
        x, config = self.mlp(features), self.config
        if self.discrete:
            return OneHot(self.out(x), config.unimix)
        mean, std = self.out(x), self.std(x)
        if mean.dtype != torch.float64:
            mean, std = mean.float(), std.float()
        if config.continuous == "tanh_normal":
            return TanhNormal(mean, std, config.min_std)
        return BoundedNormal(mean, std, config.min_std, config.max_std)
