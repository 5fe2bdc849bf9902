"""The environment of docs/extending/environment.md, followed by tests/envs/test_extending.py."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.specs import ArraySpec, EnvSpec, MetricKind

METRICS: dict[str, MetricKind] = {"is_success": "last", "energy": "sum", "speed": "mean"}
SECONDS, STEPS, GOAL = 0.1, 20, 1.0


class Cart(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A cart on a line that is pushed to a goal; the reward is minus the distance."""

    metrics = METRICS
    max_episode_steps = STEPS
    step_seconds = SECONDS

    def __init__(self, mass: float = 1.0) -> None:
        self.mass = mass
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)  # position, velocity
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._position, self._velocity = self.np_random.uniform(-1.0, 0.0), 0.0
        self._steps = 0
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        force = float(action[0])
        self._velocity += force / self.mass * SECONDS
        self._position += self._velocity * SECONDS
        self._steps += 1
        reached = self._position >= GOAL
        info = {"is_success": reached, "energy": abs(force * self._velocity) * SECONDS, "speed": abs(self._velocity)}
        return self._observe(), -abs(GOAL - self._position), reached, self._steps == STEPS and not reached, info

    def _observe(self) -> NDArray[np.float32]:
        return np.array([self._position, self._velocity], np.float32)


def make(name: str, mass: float = 1.0) -> Cart:
    """The environment of the entry."""
    return Cart(mass)


def spec(name: str, mass: float = 1.0) -> EnvSpec:
    """The spec of the entry, for a simulator that takes long to start."""
    return EnvSpec(
        name,
        {"state": ArraySpec((2,), "float32")},
        ArraySpec((1,), "float32", -1.0, 1.0),
        max_episode_steps=STEPS,
        step_seconds=SECONDS,
        metrics=METRICS,
    )
