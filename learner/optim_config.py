"""How a component is optimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from envs.numbers import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, check_fields

Decay = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class OptimConfig:
    """One optimiser; a component with its own learning rate has its own record.

    Args:
        name: "adam", "adamw" with decoupled weight decay, "laprop" (Ziyin et al. 2020), or "sgd".
        lr: Learning rate after the warm-up.
        betas: Decay of the first and second moments; "sgd" has the first alone, as its momentum.
        eps: Added to the root of the second moment.
        weight_decay: L2 penalty ("adam", "sgd") or decoupled decay ("adamw", "laprop") in units of the learning rate.
        shrink: Share of every weight that an update takes away first, whatever the learning rate.
        warmup_steps: Updates over which the learning rate rises linearly from 0.
        schedule: How it then falls: by a half "cosine", or by an "exponential" that goes on after the decay.
        decay_steps: Updates of the decay, 0 for a constant rate.
        final_lr_fraction: Share of `lr` that is left after the decay.
        grad_clip: Largest norm of all gradients together, 0 for no clipping.
        agc: Largest norm of each parameter's gradient as a share of the parameter's own norm (adaptive gradient
            clipping; Brock et al. 2021), 0 for no clipping.
    """

    name: Literal["adam", "adamw", "laprop", "sgd"] = "adam"
    lr: PositiveFloat = 1e-3
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    shrink: Fraction = 0.0
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["cosine", "exponential"] = "cosine"
    decay_steps: NonNegativeInt = 0
    final_lr_fraction: Fraction = 0.0
    grad_clip: NonNegativeFloat = 0.0
    agc: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
