"""Optimisers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimConfig:
    """One optimiser; a component with its own learning rate has its own record.

    Args:
        name: "adam", or "adamw" with decoupled weight decay.
        lr: Learning rate after the warm-up.
        betas: Decay of the first and second moments.
        eps: Added to the root of the second moment.
        weight_decay: L2 penalty ("adam") or decoupled decay ("adamw").
        warmup_steps: Updates over which the learning rate rises linearly from 0.
        decay_steps: Updates over which it then falls by a half cosine, 0 for a constant rate.
        final_lr_fraction: Share of `lr` that is left after the decay.
        grad_clip: Largest norm of all gradients together, 0 for no clipping.
    """

    name: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay_steps: int = 0
    final_lr_fraction: float = 0.0
    grad_clip: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("adam", "adamw"):
            raise ValueError(f"optimiser must be 'adam' or 'adamw', got {self.name!r}")
        for name in ("lr", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "decay_steps", "grad_clip"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if not 0.0 <= self.final_lr_fraction <= 1.0:
            raise ValueError(f"final_lr_fraction must be in [0, 1], got {self.final_lr_fraction}")


def learning_rate(config: OptimConfig, step: int) -> float:
    """The learning rate of update `step` (0 is the first)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.decay_steps == 0:
        return config.lr
    progress = min((step - config.warmup_steps) / config.decay_steps, 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_fraction + (1.0 - config.final_lr_fraction) * cosine)


class Optimizer:
    """A torch optimiser with its schedule and clipping.

    Args:
        config: What to build.
        parameters: Parameters to optimise.
    """

    def __init__(self, config: OptimConfig, parameters: Iterable[nn.Parameter]) -> None:
        self.config = config
        self.parameters = list(parameters)
        self.step_count = 0
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        self._optimizer = kind(
            self.parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
        )

    def step(self) -> Tensor:
        """Clip the gradients, apply them and clear them.

        Returns:
            The norm of the gradients before clipping, a scalar.
        """
        limit = self.config.grad_clip if self.config.grad_clip > 0 else math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step_count)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step_count += 1
        return norm

    def state_dict(self) -> dict[str, object]:
        """Moments and position in the schedule."""
        return {"optimizer": self._optimizer.state_dict(), "step_count": self.step_count}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a `state_dict`."""
        optimizer, step_count = state["optimizer"], state["step_count"]
        assert isinstance(optimizer, dict)
        assert isinstance(step_count, int)
        self._optimizer.load_state_dict(optimizer)
        self.step_count = step_count
