"""An environment whose values tell time limits from ends: `gym:envs.testing.time_limit:WorldfleetTimeLimit-v0`.

Every step pays 1. Where the episode is truncated the task goes on, and every state is worth 1 / (1 - gamma); where it
terminates, a state with k steps left is worth (1 - gamma^k) / (1 - gamma).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

TIME_LIMIT_ID = "WorldfleetTimeLimit-v0"
TIME_LIMIT_NAME = f"gym:envs.testing.time_limit:{TIME_LIMIT_ID}"


class TimeLimitEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The observation is the share of the episode that is over.

    Args:
        limit: Steps of an episode.
        terminates: Whether it terminates there, instead of being truncated.
        render_mode: There are no pictures.
    """

    def __init__(self, limit: int = 8, terminates: bool = False, render_mode: str | None = None) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.max_episode_steps = limit
        self._terminates = terminates

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        over = self._steps == self.max_episode_steps
        return self._observe(), 1.0, over and self._terminates, over and not self._terminates, {}

    def _observe(self) -> NDArray[np.float32]:
        return np.array([self._steps / self.max_episode_steps], np.float32)


if TIME_LIMIT_ID not in gymnasium.registry:
    gymnasium.register(TIME_LIMIT_ID, entry_point="envs.testing.time_limit:TimeLimitEnv", disable_env_checker=True)
