"""Optimisers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from learner.optim_config import OptimConfig


def learning_rate(config: OptimConfig, step: int) -> float:
    """The learning rate of update `step`: 0 at the first, which is 0, of a warm-up."""
    if step < config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.decay_steps == 0:
        return config.lr
    progress = (step - config.warmup_steps) / config.decay_steps
    if config.schedule == "exponential":
        return float(config.lr * config.final_lr_fraction**progress)
    progress = min(progress, 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_fraction + (1.0 - config.final_lr_fraction) * cosine)


@torch.no_grad()
def clip_adaptively(
    parameters: Sequence[nn.Parameter], clip: float, least: float = 1e-3, together: Iterable[Sequence[Tensor]] = ()
) -> None:
    """Scale each parameter's gradient down to `clip` times the parameter's norm (Brock et al. 2021, eq. 3, per tensor).

    Args:
        parameters: Those without a gradient are left out.
        clip: Largest ratio of the norms.
        least: Smallest norm a parameter is taken to have.
        together: Groups of parameters that have one norm, and their gradients one.
    """
    clipped = [p for p in parameters if p.grad is not None]
    if not clipped:
        return
    weights, gradients = [p.detach() for p in clipped], [p.grad for p in clipped if p.grad is not None]
    norms = torch.stack([torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, gradients)])
    places = {id(p): place for place, p in enumerate(clipped)}
    for group in together:
        members = [places[id(p)] for p in group if id(p) in places]
        norms[:, members] = norms[:, members].norm(dim=1, keepdim=True)
    allowed = norms[0].clamp(min=least).mul_(clip)
    factors = (allowed / norms[1].clamp(min=1e-30)).clamp_(max=1.0)
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


def _make(config: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.betas[0], weight_decay=config.weight_decay)
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "laprop": LaProp}[config.name]
    optimizer: torch.optim.Optimizer = kind(
        parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )
    return optimizer


class Optimizer:
    """A torch optimiser with its schedule and clipping.

    Args:
        config: What to build.
        parameters: Parameters to optimise.
        name: What they are, "" if there is one optimiser for all.
        together: Groups of them that adaptive clipping takes as one.
    """

    def __init__(
        self,
        config: OptimConfig,
        parameters: Iterable[nn.Parameter],
        name: str = "",
        together: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self.config, self.name = config, name
        self.parameters = list(parameters)
        self._together = together
        self.step_count = 0
        self._optimizer = _make(config, self.parameters)

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
            clip_adaptively(self.parameters, self.config.agc, together=self._together)
        if self.config.shrink > 0:
            torch._foreach_mul_([p.detach() for p in self.parameters], 1.0 - self.config.shrink)
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
