"""Layers of the Dreamer networks: initialisation, normalisation, grouped linear maps, MLPs.

Letters: D features in, U features out, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormName = Literal["rms", "layer", "none"]
ActivationName = Literal["silu", "elu", "relu", "tanh"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "elu": F.elu, "relu": F.relu, "tanh": torch.tanh}
_TRUNCATION = 1.1368472343385565  # 1 / standard deviation of a standard normal truncated at +-2


@torch.no_grad()
def initialise(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a normal truncated at two standard deviations, variance scale^2 / fan_in; `scale` 0 fills with 0."""
    if scale == 0.0:
        weight.zero_()
        return
    nn.init.trunc_normal_(weight, 0.0, 1.0, -2.0, 2.0)
    weight.mul_(scale * _TRUNCATION / math.sqrt(fan_in))


class Linear(nn.Linear):
    """`nn.Linear` with the initialisation of `initialise` and zero biases.

    Args:
        in_features: D.
        out_features: U.
        scale: Standard deviation of the weights, in units of 1 / sqrt(D).
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        self.scale = scale
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        initialise(self.weight, self.in_features, self.scale)
        nn.init.zeros_(self.bias)


class RmsNorm(nn.Module):
    """Division by the root mean square over the last axis, times a learned scale (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.scale).to(x.dtype)


class ChannelNorm(nn.Module):
    """A norm over the channels of images [N, C, H, W]."""

    def __init__(self, name: NormName, channels: int) -> None:
        super().__init__()
        self.norm = make_norm(name, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


def make_norm(name: NormName, size: int) -> nn.Module:
    """The norm `name` over a last axis of `size`; layer norms use the same small constant as RMS norms."""
    if name == "none":
        return nn.Identity()
    return RmsNorm(size) if name == "rms" else nn.LayerNorm(size, eps=1e-3)


class Dense(nn.Module):
    """Linear map, norm, activation."""

    def __init__(self, in_features: int, out_features: int, norm: NormName, act: ActivationName) -> None:
        super().__init__()
        self.linear = Linear(in_features, out_features)
        self.norm = make_norm(norm, out_features)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.linear(x))

    def finish(self, x: Tensor) -> Tensor:
        """What follows the linear map, for callers that have computed it."""
        return self.act(self.norm(x))


class Mlp(nn.Sequential):
    """`layers` dense layers of `units` features."""

    def __init__(self, in_features: int, units: int, layers: int, norm: NormName, act: ActivationName) -> None:
        sizes = [in_features, *[units] * layers]
        super().__init__(*(Dense(i, o, norm, act) for i, o in pairwise(sizes)))


class GroupedLinear(nn.Module):
    """A linear map whose weight matrix has G blocks on its diagonal; no group sees another's features.

    Args:
        in_features: D, a multiple of G.
        out_features: U, a multiple of G.
        groups: G.
        shared: Further inputs that every group sees; part of its fan-in.

    Raises:
        ValueError: A size is no multiple of the groups.
    """

    def __init__(self, in_features: int, out_features: int, groups: int, shared: int = 0) -> None:
        super().__init__()
        if in_features % groups or out_features % groups:
            raise ValueError(f"sizes {in_features} and {out_features} are not multiples of {groups} groups")
        size, self.groups = in_features // groups, groups
        self.weight = nn.Parameter(torch.empty(groups, size, out_features // groups))
        self.bias = nn.Parameter(torch.zeros(out_features))
        initialise(self.weight, size + shared)
        self.shared = None
        if shared:
            self.shared = nn.Parameter(torch.empty(out_features, shared))
            initialise(self.shared, size + shared)

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """x [N, D] and, if the layer has shared inputs, shared [N, ...] -> [N, U]."""
        grouped = x.view(len(x), self.groups, -1).transpose(0, 1)
        flat = torch.bmm(grouped, self.weight).transpose(0, 1).flatten(1)
        if self.shared is None:
            return flat + self.bias
        assert shared is not None
        return flat + F.linear(shared, self.shared, self.bias)
