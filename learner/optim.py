"""Optimisers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from envs.numbers import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, check_fields

Decay = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class OptimConfig:
    """One optimiser; a component with its own learning rate has its own record.

    Args:
        name: "adam", "adamw" with decoupled weight decay, or "laprop" (Ziyin et al. 2020).
        lr: Learning rate after the warm-up.
        betas: Decay of the first and second moments.
        eps: Added to the root of the second moment.
        weight_decay: L2 penalty ("adam") or decoupled decay ("adamw", "laprop").
        warmup_steps: Updates over which the learning rate rises linearly from 0.
        decay_steps: Updates over which it then falls by a half cosine, 0 for a constant rate.
        final_lr_fraction: Share of `lr` that is left after the decay.
        grad_clip: Largest norm of all gradients together, 0 for no clipping.
        agc: Largest norm of each parameter's gradient as a share of the parameter's own norm (adaptive gradient
            clipping; Brock et al. 2021), 0 for no clipping.
    """

    name: Literal["adam", "adamw", "laprop"] = "adam"
    lr: PositiveFloat = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 0
    decay_steps: NonNegativeInt = 0
    final_lr_fraction: Fraction = 0.0
    grad_clip: NonNegativeFloat = 0.0
    agc: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


def learning_rate(config: OptimConfig, step: int) -> float:
    """The learning rate of update `step` (0 is the first)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.decay_steps == 0:
        return config.lr
    progress = min((step - config.warmup_steps) / config.decay_steps, 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_fraction + (1.0 - config.final_lr_fraction) * cosine)


@torch.no_grad()
def clip_adaptively(parameters: Sequence[nn.Parameter], clip: float, least: float = 1e-3) -> None:
    """Scale each parameter's gradient down to `clip` times the parameter's norm (Brock et al. 2021, eq. 3, per tensor).

    Args:
        parameters: Those without a gradient are left out.
        clip: Largest ratio of the norms.
        least: Smallest norm a parameter is taken to have.
    """
    pairs = [(p.detach(), p.grad) for p in parameters if p.grad is not None]
    if not pairs:
        return
    weights, gradients = [list(tensors) for tensors in zip(*pairs, strict=True)]
    allowed = torch.stack(torch._foreach_norm(weights)).clamp_(min=least).mul_(clip)
    factors = (allowed / torch.stack(torch._foreach_norm(gradients)).clamp_(min=1e-30)).clamp_(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))


class LaProp(torch.optim.Optimizer):
    """Momentum of gradients that are divided by their root mean square first (Ziyin et al. 2020, algorithm 1).

    Unlike Adam's, a large gradient in the past does not break the momentum, so `eps` may be tiny.

    Args:
        params: What to optimise.
        lr: Learning rate.
        betas: Decay of the momentum and of the mean square.
        eps: Added to the root mean square.
        weight_decay: Decoupled decay, in units of the learning rate.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; parameters without one stay as they are."""
        for group in self.param_groups:
            by_steps: defaultdict[int, list[Tensor]] = defaultdict(list)  # some begin later than others
            for p in group["params"]:
                if p.grad is not None:
                    by_steps[self.state[p].get("step", 0)].append(p)
            for parameters in by_steps.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {"step": 0, "square": torch.zeros_like(p), "momentum": torch.zeros_like(p)}
        states = [self.state[p] for p in parameters]
        squares, momenta = [s["square"] for s in states], [s["momentum"] for s in states]
        for state in states:
            state["step"] += 1
        gradients = [p.grad for p in parameters if p.grad is not None]
        (first, second), step = group["betas"], states[0]["step"]
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - second)
        roots = torch._foreach_div(squares, 1.0 - second**step)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_lerp_(momenta, torch._foreach_div(gradients, list(roots)), 1.0 - first)
        if group["weight_decay"] > 0:
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, momenta, alpha=-group["lr"] / (1.0 - first**step))


class Optimizer:
    """A torch optimiser with its schedule and clipping.

    Args:
        config: What to build.
        parameters: Parameters to optimise.
        name: What they are, "" if there is one optimiser for all.
    """

    def __init__(self, config: OptimConfig, parameters: Iterable[nn.Parameter], name: str = "") -> None:
        self.config, self.name = config, name
        self.parameters = list(parameters)
        self.step_count = 0
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "laprop": LaProp}[config.name]
        self._optimizer = kind(
            self.parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
        )

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients together, a scalar; not finite if one of them is not."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def step(self, norm: Tensor | None = None) -> Tensor:
        """Clip the gradients, apply them and clear them.

        Args:
            norm: What `gradient_norm` says of them, if that is known.

        Returns:
            The norm of the gradients before clipping, a scalar.
        """
        if norm is None:
            norm = self.gradient_norm()
        if self.config.grad_clip > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.grad_clip, norm)
        if self.config.agc > 0:
            clip_adaptively(self.parameters, self.config.agc)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step_count)
        self._optimizer.step()
        self.step_count += 1
        self.clear()
        return norm

    def clear(self) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """Moments and position in the schedule; later steps do not change them."""
        return {"optimizer": deepcopy(self._optimizer.state_dict()), "step_count": self.step_count}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a `state_dict`."""
        optimizer, step_count = state["optimizer"], state["step_count"]
        assert isinstance(optimizer, dict)
        assert isinstance(step_count, int)
        self._optimizer.load_state_dict(deepcopy(optimizer))
        self.step_count = step_count
