"""An environment that fails at random and can be played again: `gym:tests.envs.slippery:Slippery-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

NAME = "gym:tests.envs.slippery:Slippery-v0"
LENGTH = 20


class SlipperyEnv(gym.Env[Any, Any]):
    """Raises and returns NaN at random steps and in random resets, all of it drawn from `np_random`.

    Args:
        share: Of the calls that raise, and of those that return NaN.
        render_mode: Not used.
    """

    def __init__(self, share: float = 0.02, render_mode: str | None = None) -> None:
        self.share = share
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self._observe(), float(action[0]), False, self.count == LENGTH, {}

    def _observe(self) -> Any:
        draw = self.np_random.random()
        if draw < self.share:
            raise RuntimeError(f"slipped at {draw}")
        return np.array([self.count, draw if draw > 2 * self.share else np.nan], np.float32)


gym.register("Slippery-v0", SlipperyEnv, disable_env_checker=True)
