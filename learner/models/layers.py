"""Layers of the Dreamer networks: sizes, initialisation, norms, grouped linear maps, MLPs, loops over layers.

Letters: T steps, B rows of a step, N rows, D features in, U features out, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.models.sizes import Architecture, NormName

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


def make_norm(name: NormName, size: int) -> nn.Module:
    """The norm `name` over a last axis of `size`; layer norms use the same small constant as RMS norms."""
    if name == "none":
        return nn.Identity()
    return RmsNorm(size) if name == "rms" else nn.LayerNorm(size, eps=1e-3)


def normalise(norm: nn.Module, act: Activation, x: Tensor) -> Tensor:
    """The activation of the norm of x [..., D]; one operation for RMS norm and SiLU."""
    if isinstance(norm, RmsNorm) and act is F.silu:
        return norm(x, silu=True)  # type: ignore[no-any-return]
    return act(norm(x))


class Dense(nn.Module):
    """Linear map, norm, activation."""

    def __init__(self, in_features: int, out_features: int, arch: Architecture) -> None:
        super().__init__()
        self.linear = Linear(in_features, out_features)
        self.norm = make_norm(arch.norm, out_features)
        self.act = ACTIVATIONS[arch.act]

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.linear(x))

    def finish(self, x: Tensor) -> Tensor:
        """What follows the linear map, for callers that have computed it."""
        return normalise(self.norm, self.act, x)


class Mlp(nn.Sequential):
    """`layers` dense layers of `units` features."""

    def __init__(self, in_features: int, units: int, layers: int, arch: Architecture) -> None:
        super().__init__(*(Dense(i, o, arch) for i, o in pairwise([in_features, *[units] * layers])))


class GroupedLinear(nn.Module):
    """A linear map whose weight matrix has G blocks on its diagonal; no group has another's features as inputs.

    Weights start with the fan-in of all groups together, as in the reference implementation of DreamerV3, whose
    learning rates go with that.

    Args:
        in_features: D, a multiple of G.
        out_features: U, a multiple of G.
        groups: G.
        shared: Further inputs of every group.

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
            return join(self.by_group(x))
        assert shared is not None
        return join(self.by_group(x, F.linear(shared, self.shared, self.bias)))

    def by_group(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """x [N, D] -> [G, N, U / G], added to start [N, U] or else to the bias; without the copy that `join` makes."""
        added = self.bias.view(self.groups, 1, -1) if start is None else split(start, self.groups)
        return torch.baddbmm(added, split(x, self.groups), self.weight)


def one_matrix(module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a module that are one weight matrix of the literature, where there are several."""
    layers = (layer for layer in module.modules() if isinstance(layer, GroupedLinear))
    return [[layer.weight, layer.shared] for layer in layers if layer.shared is not None]


def split(x: Tensor, groups: int) -> Tensor:
    """x [N, D] as [G, N, D / G]."""
    return x.view(len(x), groups, -1).transpose(0, 1)


def join(x: Tensor) -> Tensor:
    """The reverse of `split`."""
    return x.transpose(0, 1).flatten(1)


def unrolled(module: nn.Module, steps: int, rows: int) -> Any:
    """A twin of a module for a loop that calls it T times with B rows, within the autocast of this call.

    Autograd would multiply the few rows of every step into a gradient as large as the weights, and add up one such
    gradient a step. The linear maps of the twin collect their inputs in the loop, and the backward pass multiplies
    those of all steps at once. The twin shares the module's parameters and serves one loop.
    """
    if isinstance(module, Linear):
        return UnrolledLinear(module.bias.expand(steps, rows, -1), module.weight)
    if isinstance(module, GroupedLinear):
        return UnrolledGrouped(module, steps, rows)
    twin = copy(module)
    twin._modules = {name: child and unrolled(child, steps, rows) for name, child in module._modules.items()}
    return twin


class UnrolledLinear(nn.Module):
    """A linear map with start [T, B, U] in place of a bias and weights [U, D]."""

    def __init__(self, start: Tensor, *weights: Tensor) -> None:
        super().__init__()
        device = weights[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
        self._inputs: list[list[Tensor]] = [[] for _ in weights]
        self._weights = [weight.detach().to(dtype) for weight in weights]
        starts = _CollectedProducts.apply(start.to(dtype), self._inputs, *weights)  # type: ignore[no-untyped-call]
        self._starts = iter(starts.unbind(0))

    def forward(self, x: Tensor) -> Tensor:
        """The next step's [B, D] -> [B, U]."""
        start, (weight,) = self.next_step(x)
        return torch.addmm(start, x, weight.T)

    def next_step(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The next start [B, U], and the weights without gradients; `inputs` are those of the weights."""
        for collected, x in zip(self._inputs, inputs, strict=True):
            collected.append(x.detach())
        return next(self._starts), self._weights


class UnrolledGrouped(UnrolledLinear):
    """A grouped linear map, see `GroupedLinear`."""

    def __init__(self, layer: GroupedLinear, steps: int, rows: int) -> None:
        weights = [layer.weight] if layer.shared is None else [layer.weight, layer.shared]
        super().__init__(layer.bias.expand(steps, rows, -1), *weights)
        self.groups = layer.groups

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:  # type: ignore[override]
        """The next step's [B, D] and shared [B, ...] -> [B, U]."""
        start, (weight, shared_weight) = self.next_step(x, shared)
        start = torch.addmm(start, shared, shared_weight.T)
        return join(torch.baddbmm(split(start, self.groups), split(x, self.groups), weight))

    def by_group(self, x: Tensor) -> Tensor:
        """The next step's [B, D] -> [G, B, U / G]."""
        start, (weight,) = self.next_step(x)
        return torch.baddbmm(split(start, self.groups), split(x, self.groups), weight)


class _CollectedProducts(torch.autograd.Function):
    """Returns `start`; the gradient of the weights is its gradient [T, B, U] times the inputs collected until then."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, inputs: list[list[Tensor]], *weights: Tensor) -> Tensor:
        ctx.inputs, ctx.dtypes = inputs, [weight.dtype for weight in weights]
        ctx.groups = [len(weight) if weight.dim() == 3 else 0 for weight in weights]
        return start.view_as(start)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        errors, results = gradient.flatten(0, 1), []
        for collected, dtype, groups in zip(ctx.inputs, ctx.dtypes, ctx.groups, strict=True):
            x = torch.cat(collected).to(errors.dtype)
            product = torch.bmm(split(x, groups).mT, split(errors, groups)) if groups else errors.T @ x
            results.append(product.to(dtype))
        return gradient, None, *results
