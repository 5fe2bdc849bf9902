"""Environments with one fault each: `gym:tests.envs.testing.faulty:Faulty-v0` with `kind`."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

NAME = "gym:tests.envs.testing.faulty:Faulty-v0"
LENGTH = 10

ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(3),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))),
    "dict": spaces.Dict({"steer": spaces.Box(-1, 1, (1,), np.float32)}),
    "unbounded": spaces.Box(-np.inf, np.inf, (1,), np.float32),
    "start": spaces.Discrete(3, start=2),
    "fixed": spaces.Box(np.array([-1, 0.5], np.float32), np.array([1, 0.5], np.float32)),
    "float64": spaces.Box(np.array([-0.3]), np.array([0.3]), dtype=np.float64),
}


class FaultyEnv(gym.Env[Any, Any]):
    """Observation [a random number, the last action]; LENGTH steps, truncated."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]
    shared = 0

    def __init__(self, kind: str = "plain", render_mode: str | None = None) -> None:
        self.kind, self.render_mode = kind, render_mode
        if kind == "dies_when_made":
            os._exit(3)
        box = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space: Any = spaces.Dict({"a": box}) if kind in ("extra_key", "missing_key") else box
        if kind == "fractions":
            self.observation_space = spaces.Box(0, 255, (2,), np.uint8)
        self.action_space = ACTION_SPACES.get(kind, spaces.Box(-1.0, 1.0, (1,), np.float32))
        if kind == "limit_terminates":
            self.max_episode_steps = LENGTH
        self.buffer = np.zeros(2, np.float32)
        self.kept: list[Any] = []
        self.rng = np.random.default_rng()
        if kind == "leaves_file":
            self.file = os.open(os.devnull, os.O_RDONLY)
        if kind == "collected_file":
            self.stream = open(os.devnull)  # noqa: SIM115 (closed with the instance)
        if kind == "leaves_process":
            self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if self.kind == "own_generator" and seed is not None:
            self.rng = np.random.default_rng(seed)
        self.t = 0
        observation = self.observe(0.0)
        return observation if self.kind == "bare_reset" else (observation, {})

    def step(self, action: Any) -> Any:
        self.t += 1
        self.misbehave(action)
        ended = self.t >= (10**9 if self.kind == "endless" else LENGTH)
        terminates = self.kind in ("limit_terminates", "length_terminates")
        truncated: Any = ended and not terminates
        if self.kind == "flag":
            truncated = int(truncated)
        reward: Any = {"reward_array": np.ones(1), "reward_text": "1", "reward_nan": np.nan}.get(self.kind, 1.0)
        info = {"final_obs": None} if self.kind == "resets_itself" and ended else {}
        last = 0.0 if self.kind in ACTION_SPACES else float(action[0])
        return self.observe(last), reward, ended and terminates, truncated, info

    def misbehave(self, action: Any) -> None:
        if self.kind == "changes_action":
            action *= 0.5
        elif self.kind == "refuses_corner" and abs(action[0]) == 1.0:
            raise ValueError("too far")
        elif self.kind == "leak":
            self.kept.append(np.ones(20_000))  # too large for a gap of the heap
        elif self.kind == "slow" and self.t == 7:
            time.sleep(0.02)
        elif self.kind == "hang" and self.t == 3:
            time.sleep(1000)
        elif self.kind == "exit" and self.t == 3:
            os._exit(7)
        elif self.kind == "segfault" and self.t == 3:
            ctypes.string_at(0)

    def observe(self, action: float) -> Any:
        draw = self.np_random.uniform(-1, 1)
        if self.kind == "global_generator":
            draw = np.random.uniform(-1, 1)  # noqa: NPY002
        elif self.kind == "own_generator":
            draw = self.rng.uniform(-1, 1)
        elif self.kind == "shared":
            FaultyEnv.shared += 1
            draw = FaultyEnv.shared % 10_007 / 10_007  # no check takes a multiple of these steps
        observation: Any = np.array([draw, np.clip(action, -1, 1)], np.float32)
        if self.kind == "alias":
            self.buffer[:] = observation
            return self.buffer
        changed = {
            "wide": np.float64(observation),
            "integers": np.array([0, 1]),
            "outside": observation + 2,
            "fractions": np.abs(observation),
            "list": [0.0, 1.0],
            "short": observation[:1],
            "nan": observation * np.nan,
            "extra_key": {"a": observation, "b": observation},
            "missing_key": {},
        }
        return changed.get(self.kind, observation)

    def render(self) -> Any:
        pictures = {"grey": np.zeros((8, 8), np.uint8), "no_picture": None, "list_of_pictures": []}
        if self.kind == "render_raises":
            raise NotImplementedError
        return pictures.get(self.kind, np.zeros((8, 8, 3), np.uint8))

    def close(self) -> None:
        if self.kind == "close_raises":
            raise RuntimeError("cannot close")


gym.register("Faulty-v0", FaultyEnv, disable_env_checker=True)
