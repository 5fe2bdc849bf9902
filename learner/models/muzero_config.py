"""Sizes and parts of the model of MuZero."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from envs.numbers import NonNegativeInt, PositiveFloat, PositiveInt, check_fields
from learner.models.sizes import ActivationName, NormName


@dataclass(frozen=True)
class PrefixConfig:
    """The value prefix of EfficientZero (Ye et al. 2021, section 4.2): an LSTM that predicts sums of rewards.

    Args:
        units: Of the LSTM.
        horizon: Steps after which its memory and the sum start anew.
    """

    units: PositiveInt = 512
    horizon: PositiveInt = 5

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ProjectionConfig:
    """The two MLPs of SimSiam (Chen and He 2021), as EfficientZero uses them.

    Args:
        hidden: Features of the hidden layers of the projector.
        outputs: Features that are compared.
        bottleneck: Features of the hidden layer of the predictor.
    """

    hidden: PositiveInt = 1024
    outputs: PositiveInt = 1024
    bottleneck: PositiveInt = 512

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MuZeroNetworkConfig:
    """Sizes of the networks (Schrittwieser et al. 2020, appendix F).

    Args:
        units: Features of a latent of vectors, and of its layers.
        channels: Channels of a latent of images, and of its layers.
        blocks: Residual blocks of the representation, and as many of the dynamics.
        reductions: Times the representation halves an image.
        head_channels: Channels to which a head first reduces a latent of images.
        head_units: Features of the hidden layers of heads.
        head_layers: Hidden layers of heads.
        norm: Norm of all layers.
        act: Activation of all layers.
        prefix: The value prefix, None to predict rewards.
        projection: For the consistency loss.
    """

    units: PositiveInt = 512
    channels: PositiveInt = 256
    blocks: NonNegativeInt = 16
    reductions: PositiveInt = 4
    head_channels: PositiveInt = 16
    head_units: PositiveInt = 256
    head_layers: PositiveInt = 1
    norm: NormName = "layer"
    act: ActivationName = "relu"
    prefix: PrefixConfig | None = None
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)

    def __post_init__(self) -> None:
        check_fields(self)


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


@dataclass(frozen=True)
class GaussianConfig:
    """The policy over a box of actions: independent normals with means in (-1, 1).

    Args:
        min_std: Smallest standard deviation.
        max_std: Largest.
    """

    min_std: PositiveFloat = 0.1
    max_std: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_std >= self.max_std:
            raise ValueError(f"min_std must be below max_std {self.max_std}, got {self.min_std}")


@dataclass(frozen=True)
class MuZeroModelConfig:
    """Parts of the model."""

    keys: tuple[str, ...]  # observations in use, () for all
    network: MuZeroNetworkConfig
    reward: SupportConfig
    value: SupportConfig
    gaussian: GaussianConfig
    consistency: bool  # whether there is a projection
