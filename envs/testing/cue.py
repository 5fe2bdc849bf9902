"""An environment that only memory solves: `gym:envs.testing.cue:WorldfleetCue-v0`.

The first observation shows a cue, the others are blank. The action of the last step must name the cue; it then pays 1,
otherwise 0. Without memory half of the episodes are won at best.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

CUE_ID = "WorldfleetCue-v0"
CUE_NAME = f"gym:envs.testing.cue:{CUE_ID}"


class CueEnv(gymnasium.Env[NDArray[np.float32], Any]):
    """Two cues, drawn anew for each episode.

    Args:
        delay: Blank observations between the cue and the answer, which is the action taken on the last of them.
        render_mode: There are no pictures.
    """

    def __init__(self, delay: int = 5, render_mode: str | None = None) -> None:
        if delay < 0:
            raise ValueError(f"delay must not be negative, got {delay}")
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)  # one-hot cue, or zeros
        self.action_space = gymnasium.spaces.Discrete(2)
        self._delay = delay

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._cue = int(self.np_random.integers(2))
        self._steps = 0
        return np.eye(2, dtype=np.float32)[self._cue], {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        answered = self._steps > self._delay
        reward = float(answered and int(action) == self._cue)
        return np.zeros(2, np.float32), reward, answered, False, {}


if CUE_ID not in gymnasium.registry:
    gymnasium.register(CUE_ID, entry_point="envs.testing.cue:CueEnv", disable_env_checker=True)
