"""Sizes of the Dreamer networks, and what all networks of a model share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from envs.numbers import PositiveInt, check_fields

SizeName = Literal["1m", "12m", "25m", "50m", "100m", "200m", "400m"]
NormName = Literal["rms", "layer", "none"]
ActivationName = Literal["silu", "elu", "relu", "tanh"]


@dataclass(frozen=True)
class Dimensions:
    """What grows with the size of a model (Hafner et al. 2025, table of model sizes).

    Args:
        deter: Deterministic features of a latent state.
        hidden: Features of the layers inside the RSSM.
        classes: Classes of each categorical of a latent state.
        depth: Channels of the convolutions, before their multipliers.
        units: Features of the hidden layers of all heads and of encoder and decoder.
    """

    deter: PositiveInt = 512
    hidden: PositiveInt = 64
    classes: Annotated[int, Ge(2), Le(256)] = 4
    depth: PositiveInt = 4
    units: PositiveInt = 64

    def __post_init__(self) -> None:
        check_fields(self)


SIZES: dict[SizeName, Dimensions] = {
    "1m": Dimensions(512, 64, 4, 4, 64),
    "12m": Dimensions(2048, 256, 16, 16, 256),
    "25m": Dimensions(3072, 384, 24, 24, 384),
    "50m": Dimensions(4096, 512, 32, 32, 512),
    "100m": Dimensions(6144, 768, 48, 48, 768),
    "200m": Dimensions(8192, 1024, 64, 64, 1024),
    "400m": Dimensions(12288, 1536, 96, 96, 1536),
}
"""Sizes by their nominal number of parameters."""


@dataclass(frozen=True)
class Architecture:
    """What all networks of a model share: sizes, and the norm and the activation of hidden layers."""

    sizes: Dimensions
    norm: NormName = "rms"
    act: ActivationName = "silu"
