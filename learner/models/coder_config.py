"""Shape of a coder: what turns an observation into a latent and back."""

from __future__ import annotations

from dataclasses import dataclass

from envs.numbers import PositiveInt, check_fields
from learner.models.ensemble_config import Activation


@dataclass(frozen=True)
class CoderConfig:
    """Shape of a coder, and what trains it.

    Args:
        size: Features L of the latent.
        hidden: Widths of the hidden layers that code a vector; decoded in the reverse order.
        channels: Channels after each convolution that codes an image; every one halves it.
        activation: Non-linearity after every hidden layer and convolution.
        variational: Code a mean and a variance, sample in training (Kingma and Welling 2014), and plan with the mean.
        shared: Whether the losses of dynamics, reward and termination train the coder too, not reconstruction alone.
    """

    size: PositiveInt = 16
    hidden: tuple[PositiveInt, ...] = (256, 128)
    channels: tuple[PositiveInt, ...] = (16, 32, 64, 64)
    activation: Activation = "elu"
    variational: bool = False
    shared: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.channels:
            raise ValueError("channels must not be empty")
