"""An environment that tells which of its arrays are one step off: `gym:envs.testing.alignment:WorldfleetAlignment-v0`.

Every observation holds a new random target and the action that led to it; the reward of a step is the product of the
target seen before it and the action taken on it. In a stored sequence, with step t as `envs.specs` states it,

    observation_{t+1}[1] = action_t,    reward_{t+1} = observation_t[0] * action_t.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

ALIGNMENT_ID = "WorldfleetAlignment-v0"
ALIGNMENT_NAME = f"gym:envs.testing.alignment:{ALIGNMENT_ID}"
LENGTH = 13
"""Actions of an episode."""


class AlignmentEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Observation [target, last action], 0 of an episode's first step; episodes end after LENGTH actions."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.max_episode_steps = LENGTH

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observe(0.0), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        reward = float(self._target * action[0])
        return self._observe(action[0]), reward, False, self._steps == LENGTH, {}

    def _observe(self, action: float) -> NDArray[np.float32]:
        self._target = np.float32(self.np_random.uniform(-1.0, 1.0))
        return np.array([self._target, action], np.float32)


def check_alignment(
    observation: NDArray[Any], action: NDArray[Any], reward: NDArray[Any], is_first: NDArray[Any]
) -> None:
    """Assert that a stored sequence of the environment is aligned.

    Args:
        observation: [..., T, 2].
        action: [..., T, 1].
        reward: [..., T].
        is_first: [..., T].

    Raises:
        AssertionError: Naming what does not belong to its step.
    """
    inner = ~is_first[..., 1:]
    if not np.array_equal(observation[..., 1:, 1][inner], action[..., :-1, 0][inner]):
        raise AssertionError("an action is stored with another step than the observation it was taken on")
    if np.any(observation[..., 1][is_first]) or np.any(reward[is_first]):
        raise AssertionError("the first step of an episode has an action or a reward of another one")
    product = observation[..., :-1, 0] * action[..., :-1, 0]
    if not np.allclose(reward[..., 1:][inner], product[inner], rtol=1e-6, atol=0.0):
        raise AssertionError("a reward is stored with another step than the one it was received on")


if ALIGNMENT_ID not in gymnasium.registry:
    gymnasium.register(ALIGNMENT_ID, entry_point="envs.testing.alignment:AlignmentEnv", disable_env_checker=True)
