"""Shape of encoder and decoder, and which observations are images and which are vectors."""

from __future__ import annotations

from dataclasses import dataclass

from envs.numbers import PositiveInt, check_fields


@dataclass(frozen=True)
class ObservationConfig:
    """Shape of encoder and decoder.

    Args:
        keys: Observations to use, () for all.
        layers: Hidden layers for vectors.
        multipliers: Channels of each convolution, in units of the depth; every convolution halves the image.
        kernel: Width of the convolutions.
        strided: Stride 2 and transposed convolutions, or stride 1 with max-pooling and nearest upsampling.
        symlog: Whether vectors are squashed.
        sigmoid: Whether decoded images are squashed into [0, 1].
        groups: Groups of the linear map from the deterministic state to the first image of the decoder.
    """

    keys: tuple[str, ...] = ()
    layers: PositiveInt = 3
    multipliers: tuple[PositiveInt, ...] = (2, 3, 4, 4)
    kernel: PositiveInt = 5
    strided: bool = False
    symlog: bool = True
    sigmoid: bool = True
    groups: PositiveInt = 8

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.multipliers:
            raise ValueError("multipliers must not be empty")
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 3, got {self.kernel}")
