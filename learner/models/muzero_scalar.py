"""Scalars as categoricals over a support (Schrittwieser et al. 2020, appendix F, "Network Architecture").

Letters: ... any leading axes, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from envs.numbers import PositiveFloat, check_fields
from learner.models.distributions import TwoHot

EPSILON = 0.001
"""Of the linear part of h, which makes it invertible."""


@dataclass(frozen=True)
class SupportConfig:
    """What a categorical scalar can say.

    Args:
        limit: The support is [-limit, limit], in the space of the transform.
        bins: Equally spaced bins of the support, odd.
        transform: "h" squashes scalars before they are coded (Pohlen et al. 2018); "none" codes them as they are.

    Raises:
        ValueError: There are too few bins, or there is none at 0.
    """

    limit: PositiveFloat = 300.0
    bins: Annotated[int, Ge(3)] = 601
    transform: Literal["h", "none"] = "h"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.bins % 2 == 0:
            raise ValueError(f"bins must be odd, so that one is at 0, got {self.bins}")

    def values(self) -> Tensor:
        """The bins [K], ascending; those on the two sides of 0 mirror each other exactly."""
        half = torch.linspace(0.0, self.limit, self.bins // 2 + 1, dtype=torch.float64)[1:]
        return torch.cat([-half.flip(0), half.new_zeros(1), half]).float()

    def squash(self, x: Tensor) -> Tensor:
        """Scalars in the space of the support."""
        return squash(x) if self.transform == "h" else x

    def expand(self, y: Tensor) -> Tensor:
        """The inverse of `squash`."""
        return expand(y) if self.transform == "h" else y

    def saturated(self, x: Tensor) -> Tensor:
        """Whether [...] scalars [...] are at the ends of the support or beyond: what it then says is too small."""
        return self.squash(x).abs() >= self.limit


def squash(x: Tensor) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x (Pohlen et al. 2018, proposition A.2)."""
    size = x.abs()
    return torch.sign(x) * (size / (torch.sqrt(size + 1.0) + 1.0)) + EPSILON * x


def expand(y: Tensor) -> Tensor:
    """The inverse of `squash`: sign(y) (((sqrt(1 + 4 epsilon (|y| + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1).

    Written without differences of nearly equal numbers, so that a float32 comes back from both to its last digits.
    """
    size = y.abs()
    # root = sqrt(x + 1) solves epsilon root^2 + root - (size + 1 + epsilon) = 0; here is root - 1.
    scale = torch.sqrt(1.0 + 4.0 * EPSILON * (size + 1.0 + EPSILON))
    less = 2.0 * size / (scale + 1.0 + 2.0 * EPSILON)
    return torch.sign(y) * (less * (less + 2.0))


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
        return self._config.expand(self._code.mean)

    def loss(self, target: Tensor) -> Tensor:
        """Cross-entropy [...] against the two-hot code of target [...]."""
        return self._code.loss(self._config.squash(target))
