"""Kind and shape of the recurrent state-space model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from envs.numbers import PositiveFloat, PositiveInt, check_fields
from learner.models.sizes import NormName


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
        gru_norm: Norm of the gates of "gru", None for that of all other layers.
        update_bias: Added to the update gate before its sigmoid: below 0, memory is kept at first.
        reset: What the reset gate multiplies in the candidate of "gru": all of it ("candidate"; Hafner et al. 2021),
            or the share of the memory alone ("memory"; Cho et al. 2014), whose gates can have no norm.
    """

    latent: Literal["categorical", "gaussian"] = "categorical"
    cell: Literal["block_gru", "gru"] = "block_gru"
    groups: PositiveInt = 32
    blocks: PositiveInt = 8
    prior_layers: PositiveInt = 2
    posterior_layers: PositiveInt = 1
    unimix: Annotated[float, Ge(0), Lt(1)] = 0.01
    min_std: PositiveFloat = 0.1
    gru_norm: NormName | None = None
    update_bias: float = -1.0
    reset: Literal["candidate", "memory"] = "candidate"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.reset == "memory" and self.cell != "gru":
            raise ValueError(f"reset 'memory' is a choice of cell 'gru', got cell {self.cell!r}")
