"""Layers of the Dreamer networks: initialisation, normalisation, grouped linear maps, MLPs.

Letters: D features in, U features out, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormName = Literal["rms", "layer", "none"]
ActivationName = Literal["silu", "elu", "relu", "tanh"]
Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"silu": F.silu, "elu": F.elu, "relu": F.relu, "tanh": torch.tanh}
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

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        """The norm of x [..., D], or its `F.silu`."""
        wide = x if x.dtype == torch.float64 else x.float()
        return _Rms.apply(wide, self.scale, self.eps, silu).to(x.dtype)  # type: ignore[no-any-return, no-untyped-call]


class _Rms(torch.autograd.Function):
    """x [..., D] * scale [D] / rms(x), through SiLU or not, with fewer passes over x than its parts would take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float, silu: bool) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normal = x * inverse
        ctx.save_for_backward(normal, inverse, scale)
        ctx.silu = silu
        return F.silu(normal * scale, inplace=True) if silu else normal * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        normal, inverse, scale = ctx.saved_tensors
        if ctx.silu:
            gradient = torch.ops.aten.silu_backward(gradient, normal * scale)
        product = gradient * normal
        radial = (product @ scale).unsqueeze(-1) / -normal.shape[-1]
        through = (gradient * scale).addcmul_(normal, radial).mul_(inverse)
        return through, product.flatten(0, -2).sum(0), None, None


class ChannelNorm(nn.Module):
    """A norm over the channels of images [N, C, H, W]."""

    def __init__(self, name: NormName, channels: int) -> None:
        super().__init__()
        self.norm = make_norm(name, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]

    def activated(self, x: Tensor, act: Activation) -> Tensor:
        """See `normalise`."""
        return normalise(self.norm, act, x.movedim(1, -1)).movedim(-1, 1)


def make_norm(name: NormName, size: int) -> nn.Module:
    """The norm `name` over a last axis of `size`; layer norms use the same small constant as RMS norms."""
    if name == "none":
        return nn.Identity()
    return RmsNorm(size) if name == "rms" else nn.LayerNorm(size, eps=1e-3)


def normalise(norm: nn.Module, act: Activation, x: Tensor) -> Tensor:
    """The activation of the norm of x [..., D], in one go where there is one for the two."""
    if isinstance(norm, RmsNorm) and act is F.silu:
        return norm(x, silu=True)  # type: ignore[no-any-return]
    return act(norm(x))


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
        return normalise(self.norm, self.act, x)


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
        shared: Further inputs that every group sees.

    Weights start with the fan-in of all groups together, as in the reference implementation of DreamerV3, whose
    learning rates go with that.

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
        fan_in = groups * (size + shared)
        initialise(self.weight, fan_in)
        self.shared = None
        if shared:
            self.shared = nn.Parameter(torch.empty(out_features, shared))
            initialise(self.shared, fan_in)

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """x [N, D] and, if the layer has shared inputs, shared [N, ...] -> [N, U]."""
        if self.shared is None:
            return self.by_group(x).transpose(0, 1).flatten(1)
        assert shared is not None
        start = F.linear(shared, self.shared, self.bias)
        return torch.baddbmm(split(start, self.groups), split(x, self.groups), self.weight).transpose(0, 1).flatten(1)

    def by_group(self, x: Tensor) -> Tensor:
        """x [N, D] -> [G, N, U / G], which saves a copy; for layers without shared inputs."""
        return torch.baddbmm(self.bias.view(self.groups, 1, -1), split(x, self.groups), self.weight)


def split(x: Tensor, groups: int) -> Tensor:
    """x [N, D] as [G, N, D / G]."""
    return x.view(len(x), groups, -1).transpose(0, 1)
