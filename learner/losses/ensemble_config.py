"""Terms of the loss of ensembles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from envs.numbers import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, check_fields


@dataclass(frozen=True)
class EnsembleLossConfig:
    """Terms of the loss; targets are normalised, so one standard deviation of the data is 1.

    Args:
        state: "mse" (half the squared error) or "huber" for the state of deterministic members; Gaussian members
            use the negative log-likelihood for state and reward. The reward of deterministic members is Huber.
        huber_delta: Where the Huber losses turn linear.
        reward_scale: Weight of the reward term.
        done_scale: Weight of the termination term.
        done_positive_weight: Weight of terminal steps within the termination term.
        nll_beta: Exponent of the variance weighting of the likelihood, 0 for none.
        logvar_regulariser: Weight of the summed distance between the log-variance bounds (PETS).
        entropy_scale: Weight of the entropy of Gaussian predictions, which keeps variances from collapsing.
        reconstruction_scale: Weight of the decoded code of the observation (models with a coder).
        prediction_scale: Weight of the decoded prediction of the next observation (models with a coder).
        kl_scale: Weight of the divergence of a variational code from a standard normal, nats per feature.
        kl_warmup: Updates over which kl_scale rises from 0.
    """

    state: Literal["mse", "huber"] = "mse"
    huber_delta: PositiveFloat = 1.0
    reward_scale: NonNegativeFloat = 0.5
    done_scale: NonNegativeFloat = 0.1
    done_positive_weight: PositiveFloat = 10.0
    nll_beta: Fraction = 0.5
    logvar_regulariser: NonNegativeFloat = 0.01
    entropy_scale: NonNegativeFloat = 0.0
    reconstruction_scale: NonNegativeFloat = 1.0
    prediction_scale: NonNegativeFloat = 1.0
    kl_scale: NonNegativeFloat = 0.001
    kl_warmup: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)
