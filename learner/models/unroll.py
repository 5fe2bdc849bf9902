"""Linear maps that a loop over time applies, with one product for the gradient of their weights.

Autograd would multiply the few rows of every step into a gradient as large as the weights, and add up one such gradient
a step. Here each map collects its inputs in the loop, and the backward pass multiplies those of all steps at once.

Letters: T steps, B rows of a step, D features in, U features out, G groups.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from learner.models.layers import GroupedLinear, Linear, split


def unrolled(module: nn.Module, steps: int, rows: int) -> Any:
    """A twin of a module for a loop that calls it T times with B rows, within the autocast of this call.

    The twin shares the module's parameters; it serves one loop.
    """
    if isinstance(module, Linear):
        return UnrolledLinear(module.weight, module.bias.expand(steps, rows, -1))
    if isinstance(module, GroupedLinear):
        return UnrolledGrouped(module, steps, rows)
    twin = copy(module)
    twin._modules = {name: child and unrolled(child, steps, rows) for name, child in module._modules.items()}
    return twin


class UnrolledLinear(nn.Module):
    """A linear map.

    Args:
        weight: [U, D].
        start: [T, B, U] added to the products.
    """

    def __init__(self, weight: Tensor, start: Tensor) -> None:
        super().__init__()
        self._tape = _Tape(start, weight)

    def forward(self, x: Tensor) -> Tensor:
        """The next step's [B, D] -> [B, U]."""
        start, (weight,) = self._tape.step(x)
        return torch.addmm(start, x, weight.T)


class UnrolledGrouped(nn.Module):
    """A grouped linear map, see `GroupedLinear`."""

    def __init__(self, layer: GroupedLinear, steps: int, rows: int) -> None:
        super().__init__()
        self.groups = layer.groups
        weights = [layer.weight] if layer.shared is None else [layer.weight, layer.shared]
        self._tape = _Tape(layer.bias.expand(steps, rows, -1), *weights)

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        """The next step's [B, D] and shared [B, ...] -> [B, U]."""
        start, (weight, shared_weight) = self._tape.step(x, shared)
        start = torch.addmm(start, shared, shared_weight.T)
        return torch.baddbmm(split(start, self.groups), split(x, self.groups), weight).transpose(0, 1).flatten(1)

    def by_group(self, x: Tensor) -> Tensor:
        """The next step's [B, D] -> [G, B, U / G]."""
        start, (weight,) = self._tape.step(x)
        return torch.baddbmm(split(start, self.groups), split(x, self.groups), weight)


class _Tape:
    """What the steps of a loop share: start [T, B, U], weights, and the inputs collected so far."""

    def __init__(self, start: Tensor, *weights: Tensor) -> None:
        device = weights[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
        self._inputs: list[list[Tensor]] = [[] for _ in weights]
        self._weights = [weight.detach().to(dtype) for weight in weights]
        starts = _Collected.apply(start.to(dtype), self._inputs, *weights)  # type: ignore[no-untyped-call]
        self._starts = iter(starts.unbind(0))

    def step(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The next start [B, U], and the weights without gradients; inputs are those of the weights."""
        for collected, x in zip(self._inputs, inputs, strict=True):
            collected.append(x.detach())
        return next(self._starts), self._weights


class _Collected(torch.autograd.Function):
    """Hands `start` on; its gradient [T, B, U] times the inputs then collected is that of the weights."""

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
