"""Kind and shape of the recurrent state-space model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from envs.numbers import PositiveFloat, PositiveInt, check_fields


@dataclass(frozen=True)
class RssmConfig:
    """Kind and shape of the model.

    Args:
        latent: "categorical" (Hafner et al. 2021) or "gaussian" (Hafner et al. 2019).
        cell: "block_gru" (Hafner et al. 2025) or "gru" with one dense weight matrix.
        groups: Independent categoricals, or Gaussians, of the stochastic part.
        blocks: Groups of the block GRU's weights.
        prior_layers: Hidden layers of the prior.
        posterior_layers: Hidden layers of the posterior.
        unimix: Share of the uniform distribution in each categorical.
        min_std: Smallest standard deviation of a Gaussian.
    """

    latent: Literal["categorical", "gaussian"] = "categorical"
    cell: Literal["block_gru", "gru"] = "block_gru"
    groups: PositiveInt = 32
    blocks: PositiveInt = 8
    prior_layers: PositiveInt = 2
    posterior_layers: PositiveInt = 1
    unimix: Annotated[float, Ge(0), Lt(1)] = 0.01
    min_std: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
