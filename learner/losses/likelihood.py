"""Element-wise losses and likelihoods: pure functions that keep the shape of their arguments."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, so that it equals the Huber loss near 0."""
    return 0.5 * (prediction - target).square()


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Huber loss (1964): half the squared error up to `delta`, linear with slope `delta` beyond."""
    return F.huber_loss(prediction, target, reduction="none", delta=delta)


def gaussian_nll(mean: Tensor, logvar: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood in nats of `target` under N(mean, exp(logvar)), constant included."""
    return 0.5 * ((target - mean).square() * torch.exp(-logvar) + logvar + math.log(2.0 * math.pi))


def student_nll(mean: Tensor, logvar: Tensor, target: Tensor, degrees: float) -> Tensor:
    """Negative log-likelihood in nats of `target` under a Student t of mean `mean` and variance exp(logvar).

    Args:
        mean: Location.
        logvar: Log of the variance, which is degrees / (degrees - 2) times the squared scale.
        target: Of the same shape.
        degrees: Degrees of freedom, more than 2.
    """
    log_scale = 0.5 * (logvar + math.log((degrees - 2.0) / degrees))
    squares = (target - mean).square() * torch.exp(-2.0 * log_scale)
    half = 0.5 * (degrees + 1.0)
    constant = math.lgamma(0.5 * degrees) - math.lgamma(half) + 0.5 * math.log(degrees * math.pi)
    return constant + log_scale + half * torch.log1p(squares / degrees)


def beta_nll(mean: Tensor, logvar: Tensor, target: Tensor, beta: float, degrees: float | None = None) -> Tensor:
    """NLL of a normal, or of a Student t, weighted by the detached variance to the power `beta`.

    Seitzer et al. 2022, eq. 5.

    `beta` 0 is the plain likelihood, 1 gives the mean the gradients of a squared error; between them the mean is
    also fitted where the predicted variance is large.
    """
    nll = student_nll(mean, logvar, target, degrees) if degrees else gaussian_nll(mean, logvar, target)
    return nll if beta == 0.0 else nll * torch.exp(beta * logvar.detach())


def binary_cross_entropy(logit: Tensor, target: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Binary cross entropy of a logit; the loss of positive targets counts `positive_weight` times."""
    return F.binary_cross_entropy_with_logits(
        logit, target, reduction="none", pos_weight=logit.new_tensor(positive_weight)
    )
