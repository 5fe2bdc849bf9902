"""Shape of an MLP ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from envs.numbers import NonNegativeFloat, PositiveFloat, PositiveInt, check_fields

Activation = Literal["silu", "relu", "tanh", "elu"]


@dataclass(frozen=True)
class EnsembleConfig:
    """Shape of an MLP ensemble.

    Args:
        members: Number of members K.
        hidden: Width of every hidden layer; () is a linear model.
        activation: Non-linearity after every hidden layer.
        gaussian: Predict a variance too (PETS probabilistic ensemble) instead of the mean alone.
        termination: Predict whether the step ends the episode by termination.
        min_logvar: Initial lower bound of the log-variance, in normalised units; learned.
        max_logvar: Initial upper bound of the log-variance, in normalised units; learned.
        bias_spread: The hinges of the first layer start spread over this many standard deviations of the inputs around
            their mean, instead of all at the mean: contacts and other local structure are then found much sooner.
        min_std: Standard deviation below which an input counts as constant and is not scaled up, and to which the
            scale of an output is raised.
        degrees: Degrees of freedom, above 2, of a Student t whose variance Gaussian members then predict: contacts make
            rare, large errors that a normal pays for with its variance everywhere. None is a normal. Planners draw from
            the normal of the same variance.
        orthogonal: Start from orthogonal weights instead of independent ones.
    """

    members: PositiveInt = 5
    hidden: tuple[PositiveInt, ...] = (256, 256)
    activation: Activation = "silu"
    gaussian: bool = False
    termination: bool = False
    min_logvar: float = -10.0
    max_logvar: float = 0.5
    bias_spread: NonNegativeFloat = 2.0
    min_std: PositiveFloat = 1e-6
    orthogonal: bool = False
    degrees: Annotated[float, Gt(2)] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_logvar >= self.max_logvar:
            raise ValueError(f"min_logvar must be below max_logvar, got {self.min_logvar} and {self.max_logvar}")
