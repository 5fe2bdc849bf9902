"""Scalars as categoricals over a support (Schrittwieser et al. 2020, appendix F, "Network Architecture").

Letters: ... any leading axes, K bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.models.distributions import TwoHot
from learner.models.muzero_config import SupportConfig

EPSILON = 0.001
"""Of the linear part of h, which makes it invertible."""


def h(x: Tensor) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x (Pohlen et al. 2018, proposition A.2)."""
    size = x.abs()
    return torch.sign(x) * (size / (torch.sqrt(size + 1.0) + 1.0)) + EPSILON * x


def inverse_h(y: Tensor) -> Tensor:
    """The inverse of `h`: sign(y) (((sqrt(1 + 4 epsilon (|y| + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1).

    Written without differences of nearly equal numbers, so that a float32 comes back from both to its last digits.
    """
    size = y.abs()
    # root = sqrt(x + 1) solves epsilon root^2 + root - (size + 1 + epsilon) = 0; here is root - 1.
    scale = torch.sqrt(1.0 + 4.0 * EPSILON * (size + 1.0 + EPSILON))
    less = 2.0 * size / (scale + 1.0 + 2.0 * EPSILON)
    return torch.sign(y) * (less * (less + 2.0))


def support_bins(config: SupportConfig) -> Tensor:
    """The bins [K] of a support, ascending; those on the two sides of 0 mirror each other exactly."""
    half = torch.linspace(0.0, config.limit, config.bins // 2 + 1, dtype=torch.float64)[1:]
    return torch.cat([-half.flip(0), half.new_zeros(1), half]).float()


def squash(x: Tensor, config: SupportConfig) -> Tensor:
    """Scalars [...] in the space of a support."""
    return h(x) if config.transform == "h" else x


def expand(y: Tensor, config: SupportConfig) -> Tensor:
    """The inverse of `squash`."""
    return inverse_h(y) if config.transform == "h" else y


def saturated(x: Tensor, config: SupportConfig) -> Tensor:
    """Whether [...] scalars [...] are at the ends of a support or beyond: what it then says is too small."""
    return squash(x, config).abs() >= config.limit


class Scalar:
    """A categorical over a support, as the distribution of a scalar.

    Args:
        logits: [..., K].
        bins: [K] of the support.
        config: The support.
    """

    def __init__(self, logits: Tensor, bins: Tensor, config: SupportConfig) -> None:
        self.logits = logits
        self._code, self._config = TwoHot(logits, bins), config

    @property
    def mean(self) -> Tensor:
        """The scalar [...] whose code the expectation is."""
        return expand(self._code.mean, self._config)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy [...] against the two-hot code of target [...]."""
        return self._code.loss(squash(target, self._config))
