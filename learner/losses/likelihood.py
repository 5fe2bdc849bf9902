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


def beta_gaussian_nll(mean: Tensor, logvar: Tensor, target: Tensor, beta: float) -> Tensor:
    """Gaussian NLL weighted by the detached variance to the power `beta` (Seitzer et al. 2022, eq. 5).

    `beta` 0 is the plain likelihood, 1 gives the mean the gradients of a squared error; between them the mean is
    also fitted where the predicted variance is large.
    """
    nll = gaussian_nll(mean, logvar, target)
    return nll if beta == 0.0 else nll * torch.exp(beta * logvar.detach())


def binary_cross_entropy(logit: Tensor, target: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Binary cross entropy of a logit; the loss of positive targets counts `positive_weight` times."""
    return F.binary_cross_entropy_with_logits(
        logit, target, reduction="none", pos_weight=logit.new_tensor(positive_weight)
    )
