"""Heads and parts of the world models of the Dreamer family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from envs.numbers import NonNegativeFloat, PositiveFloat, PositiveInt, check_fields
from learner.models.observation_config import ObservationConfig
from learner.models.rssm_config import RssmConfig
from learner.models.sizes import Architecture


@dataclass(frozen=True)
class ScalarConfig:
    """A head for one number per step.

    Args:
        layers: Hidden layers.
        output: "symexp_twohot", or the mean of a squared error, "linear" or of the "symlog" of the number.
        bins: Bins of the two-hot code, odd.
        outscale: Scale of the last layer's initial weights; 0 makes every first prediction 0.
    """

    layers: PositiveInt = 1
    output: Literal["symexp_twohot", "linear", "symlog"] = "symexp_twohot"
    bins: Annotated[int, Ge(3)] = 255
    outscale: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.bins % 2 == 0:
            raise ValueError(f"bins must be odd, got {self.bins}")


@dataclass(frozen=True)
class PolicyConfig:
    """A policy head.

    Args:
        layers: Hidden layers.
        continuous: "bounded_normal" (Hafner et al. 2025), "truncated_normal" (Hafner et al. 2021) or "tanh_normal"
            (Hafner et al. 2020).
        min_std: Smallest standard deviation.
        max_std: Largest, of the bounded normal.
        unimix: Share of the uniform distribution in discrete policies.
        outscale: Scale of the last layers' initial weights.
        evaluation: Whether actions are sampled too when not exploring, or the mode is taken.
    """

    layers: PositiveInt = 3
    continuous: Literal["bounded_normal", "truncated_normal", "tanh_normal"] = "bounded_normal"
    min_std: PositiveFloat = 0.1
    max_std: PositiveFloat = 1.0
    unimix: Annotated[float, Ge(0), Lt(1)] = 0.01
    outscale: NonNegativeFloat = 0.01
    evaluation: Literal["sample", "mode"] = "sample"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_std >= self.max_std:
            raise ValueError(f"min_std must be below max_std {self.max_std}, got {self.min_std}")


@dataclass(frozen=True)
class DisagreementConfig:
    """Plan2Explore (Sekar et al. 2020): an intrinsic reward for states where one-step predictors disagree.

    Args:
        members: Predictors.
        layers: Hidden layers of each.
        intrinsic: Weight of the disagreement in the reward that actor and critic learn from.
        extrinsic: Weight of the task's reward in it; at 0, nothing but the head that predicts it learns from that.
    """

    members: Annotated[int, Ge(2)] = 8
    layers: PositiveInt = 2
    intrinsic: NonNegativeFloat = 1.0
    extrinsic: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class WorldModelConfig:
    """Parts of a world model."""

    arch: Architecture
    observation: ObservationConfig
    rssm: RssmConfig
    reward: ScalarConfig
    continuation_layers: int  # 0: no such head, episodes never end in imagination
