"""An environment that is learned in seconds: `gym:envs.testing.reach:WorldfleetReach-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

REACH_ID = "WorldfleetReach-v0"
REACH_NAME = f"gym:envs.testing.reach:{REACH_ID}"


class ReachEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A point on a line is put beside a target; the reward is minus the distance, 16 steps an episode."""

    def __init__(self, render_mode: str | None = None) -> None:
        box = gymnasium.spaces.Box
        self.observation_space = box(-1.0, 1.0, (2,), np.float32)  # position, target
        self.action_space = box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        self._steps = 0
        return self._state.copy(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._state[0] = action[0]
        self._steps += 1
        reward = -float(abs(self._state[0] - self._state[1]))
        return self._state.copy(), reward, False, self._steps == 16, {}


if REACH_ID not in gymnasium.registry:
    gymnasium.register(REACH_ID, entry_point="envs.testing.reach:ReachEnv", disable_env_checker=True)
