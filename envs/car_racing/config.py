"""What a CarRacing-v3 episode is, whichever simulator runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from envs.numbers import Fraction, check_fields
from envs.specs import ArraySpec, EnvSpec

Backend = Literal["auto", "gymnasium", "envpool"]

FRAME_SIZE = 96
"""Height and width of the simulators' pictures, pixels."""
DASHBOARD_ROWS = 12
"""Rows of the dashboard at the foot of a picture: speed, wheel speeds, steering, yaw rate and score."""
FRAME_SECONDS = 0.02
OFF_FIELD_REWARD = -100.0
"""Reward of the step in which the car leaves the playing field, which ends the episode."""

DISCRETE_CONTROLS: NDArray[np.float32] = np.array(
    [[0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [-0.6, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.8]], np.float32
)
"""[5, 3] steer, gas and brake of the action ids: nothing, right, left, gas, brake."""
DISCRETE_CONTROLS.flags.writeable = False


@dataclass(frozen=True)
class CarRacingConfig:
    """The racing task.

    Args:
        backend: What steps vector environments: "gymnasium", the reference; "envpool", several times faster, with the
            same rules but other tracks and pixels for a seed; "auto", EnvPool where it is installed. A single
            environment is always Gymnasium's.
        image_size: Height and width of the observation, pixels.
        dashboard: Whether the picture keeps the dashboard; without it the rest fills the picture.
        action_repeat: Simulator frames per step; rewards add up.
        max_episode_frames: Simulator frames after which an episode is truncated.
        lap_complete_percent: Share of the tiles that must be visited before crossing the start ends the lap.
    """

    backend: Backend = "auto"
    image_size: Annotated[int, Ge(8)] = 64
    dashboard: bool = True
    action_repeat: Annotated[int, Ge(1), Le(100)] = 1
    max_episode_frames: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    lap_complete_percent: Fraction = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        if self.image_size > self.frame_shape[0]:
            raise ValueError(f"image_size must be at most {self.frame_shape[0]}, got {self.image_size}")

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape of the part of a simulator's picture that is observed."""
        return FRAME_SIZE - (0 if self.dashboard else DASHBOARD_ROWS), FRAME_SIZE, 3

    @property
    def max_episode_steps(self) -> int:
        return -(-self.max_episode_frames // self.action_repeat)

    @property
    def step_seconds(self) -> float:
        return self.action_repeat * FRAME_SECONDS

    def spec(self, name: str, discrete: bool) -> EnvSpec:
        """The spec of the environment called `name`."""
        action = ArraySpec((3,), "float32", (-1.0, 0.0, 0.0), 1.0)
        if discrete:
            action = ArraySpec((), "int64", 0, len(DISCRETE_CONTROLS) - 1, len(DISCRETE_CONTROLS))
        return EnvSpec(
            name=name,
            observation={"image": ArraySpec((self.image_size, self.image_size, 3), "uint8", 0.0, 255.0)},
            action=action,
            max_episode_steps=self.max_episode_steps,
            step_seconds=self.step_seconds,
            info_keys=("is_success",),
        )
