"""CarRacing-v3 of Gymnasium with a small picture, action repeat and a success flag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.car_racing.config import DISCRETE_CONTROLS, METRICS, CarRacingConfig
from envs.car_racing.simulator import Simulator
from envs.resize import AreaResize
from envs.specs import MetricKind

Observation = dict[str, NDArray[np.uint8]]


class CarRacingEnv(gym.Env[Observation, Any]):
    """Drive once round a random track: 1000 / tiles for every tile visited first, -0.1 a frame, -100 off the field.

    The observation `image` is the simulator's 96 x 96 picture averaged over areas. Actions are [steer, gas, brake] in
    [-1, 1] x [0, 1]^2 with + to the right, or an id of `DISCRETE_CONTROLS`. A finished lap and leaving the field
    terminate; `is_success` says that the lap is finished.

    Args:
        config: The task.
        discrete: Five actions instead of a box.
        render_mode: None or "rgb_array"; `render()` works under both.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}  # type: ignore[misc]
    metrics: ClassVar[dict[str, MetricKind]] = METRICS

    def __init__(
        self, config: CarRacingConfig | None = None, discrete: bool = False, render_mode: str | None = None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.config = config = config or CarRacingConfig()
        self.render_mode = render_mode
        self._shape = (config.image_size, config.image_size, 3)
        self.observation_space = gym.spaces.Dict({"image": gym.spaces.Box(0, 255, self._shape, np.uint8)})
        low = np.array([-1.0, 0.0, 0.0], np.float32)
        self.action_space = (
            gym.spaces.Discrete(len(DISCRETE_CONTROLS)) if discrete else gym.spaces.Box(low, np.ones(3, np.float32))
        )
        self._simulator: Any = Simulator(discrete, config.lap_complete_percent)
        self._resize = AreaResize(config.frame_shape, self._shape[:2])
        self._frames = 0

    @property
    def max_episode_steps(self) -> int:
        return self.config.max_episode_steps

    @property
    def step_seconds(self) -> float:
        return self.config.step_seconds

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode on a new track; `seed` fixes the tracks of this and the following ones."""
        if options:
            raise ValueError(f"this environment takes no reset options, got {sorted(options)}")
        super().reset(seed=seed)
        self._simulator.np_random = self.np_random
        self._simulator.draws_state = True
        picture, _ = self._simulator.reset()
        self._frames = 0
        return self._observe(picture), {"is_success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Drive `action_repeat` frames, fewer if the episode ends."""
        total, last = 0.0, min(self._frames + self.config.action_repeat, self.config.max_episode_frames)
        terminated = False
        while not terminated and self._frames < last:
            self._frames += 1
            self._simulator.draws_state = self._frames == last
            picture, reward, terminated, _, info = self._simulator.step(action)
            total += reward
        if terminated and not self._simulator.draws_state:
            picture = self._simulator.draw_state()
        truncated = not terminated and self._frames == self.config.max_episode_frames
        success = terminated and info["lap_finished"]
        return self._observe(picture), total, terminated, truncated, {"is_success": success}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The race as Gymnasium shows it, [400, 600, 3]."""
        picture: NDArray[np.uint8] = self._simulator.render()
        return picture

    def close(self) -> None:
        self._simulator.close()

    def _observe(self, picture: NDArray[np.uint8]) -> Observation:
        """The observation; its array is the receiver's own."""
        image = np.empty(self._shape, np.uint8)
        self._resize(picture[: self.config.frame_shape[0]], image)
        return {"image": image}
