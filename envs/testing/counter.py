"""An environment whose observations say which step they are, so that lost, doubled or misplaced steps show.

Every observation carries the number of the step within its stream and within its episode, in several dtypes, and the
action the environment received.

`gym:envs.testing.counter:WorldfleetCounter-v0` is the same environment for Gymnasium. It can fail on purpose, at a
share of its steps, and keep a ledger of its failures.
"""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.faults import Fault, FaultKind
from envs.specs import ArraySpec, EnvSpec, StepBatch

ACTION_SIZE = 2
COUNTER_ID = "WorldfleetCounter-v0"
COUNTER_NAME = f"gym:envs.testing.counter:{COUNTER_ID}"
IMAGE_SHAPE = (4, 4, 3)

COUNTER_SPEC = EnvSpec(
    name="counter",
    observation={
        "image": ArraySpec(IMAGE_SHAPE, "uint8", 0, 255),  # all pixels: step of the stream, modulo 256
        "state": ArraySpec((2 + ACTION_SIZE,), "float32"),  # step of the episode, of the stream, last action
        "count": ArraySpec((2,), "int64", 0, 2.0**62),  # step of the episode, of the stream
    },
    action=ArraySpec((ACTION_SIZE,), "float32", -1.0, 1.0),
    max_episode_steps=60,
    metrics={"cost": "sum", "is_success": "last"},
)


def episode_length(seed: int, episode: int) -> int:
    """Actions of an episode, 1 to 60."""
    return 1 + (seed * 7919 + episode * 104729) % 60


class CounterVectorEnv:
    """N counting environments; odd episodes are truncated, even ones terminate."""

    def __init__(self, num_envs: int) -> None:
        self.spec = COUNTER_SPEC
        self.num_envs = num_envs
        self.remakes = [0] * num_envs

    def take_faults(self) -> list[Fault]:
        """It never fails."""
        return []

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        assert len(seeds) == self.num_envs
        self._seeds = list(seeds)
        self._total = np.zeros(self.num_envs, np.int64)
        self._count = np.zeros(self.num_envs, np.int64)
        self._episode = np.zeros(self.num_envs, np.int64)
        self._limit = np.array([episode_length(seed, 0) for seed in seeds])
        self._last = np.zeros(self.num_envs, np.bool_)
        return self._emit(np.ones(self.num_envs, np.bool_), np.zeros((self.num_envs, ACTION_SIZE), np.float32))

    def step(self, actions: NDArray[Any]) -> StepBatch:
        assert actions.shape == (self.num_envs, ACTION_SIZE)
        first = self._last
        for n in np.flatnonzero(first):
            self._episode[n] += 1
            self._limit[n] = episode_length(self._seeds[n], int(self._episode[n]))
        self._total += 1
        self._count = np.where(first, 0, self._count + 1)
        return self._emit(first, np.where(first[:, None], 0, actions).astype(np.float32))

    def origins(self) -> list[dict[str, Any]]:
        return [{"seed": seed} for seed in self._seeds]

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """A simulator that cannot come back: it starts again."""
        return self.reset([origin["seed"] for origin in origins])

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        return np.full(IMAGE_SHAPE, self._count[index], np.uint8)

    def close(self) -> None:
        pass

    def _emit(self, first: NDArray[np.bool_], action: NDArray[np.float32]) -> StepBatch:
        self._last = self._count == self._limit
        terminal = self._last & (self._episode % 2 == 0)
        pixels = (self._total % 256).astype(np.uint8).reshape(-1, 1, 1, 1)
        return StepBatch(
            observation={
                "image": np.broadcast_to(pixels, (self.num_envs, *IMAGE_SHAPE)).copy(),
                "state": np.concatenate([self._count[:, None], self._total[:, None], action], 1, dtype=np.float32),
                "count": np.stack([self._count, self._total], 1),
            },
            reward=self._count.astype(np.float32),
            is_first=first.copy(),
            is_last=self._last.copy(),
            is_terminal=terminal,
            info={"cost": np.ones(self.num_envs, np.float32), "is_success": terminal.astype(np.float32)},
        )


class CounterEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """One counting environment of Gymnasium.

    Args:
        render_mode: None or "rgb_array".
        fault_share: Share of the steps that fail; which ones follows from seed and step.
        fault_kinds: How they fail, see `envs.faults.FaultKind`; "death" and "timeout" are for worker processes.
        fault_log: File to which every failure appends "kind seed step" before it happens, "" for none.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's own class attribute)

    def __init__(
        self,
        render_mode: str | None = "rgb_array",
        fault_share: float = 0.0,
        fault_kinds: Sequence[FaultKind] = get_args(FaultKind),
        fault_log: str = "",
    ) -> None:
        self.render_mode = render_mode
        self._fault_every = round(1 / fault_share) if fault_share else 0
        self._fault_kinds, self._fault_log = tuple(fault_kinds), fault_log
        box = gymnasium.spaces.Box
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": box(0, 255, IMAGE_SHAPE, np.uint8),
                "state": box(-np.inf, np.inf, (2 + ACTION_SIZE,), np.float32),
                "count": box(0, 2**62, (2,), np.int64),
            }
        )
        self.action_space = box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self._seed = 0
        self._total = self._episode = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self._total, self._episode = seed, -1, -1
        self._count = 0
        self._episode += 1
        self._total += 1
        return self._observe(np.zeros(ACTION_SIZE, np.float32)), {}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        self._count += 1
        self._total += 1
        kind = self._fault()
        done = self._count == episode_length(self._seed, self._episode)
        even = self._episode % 2 == 0
        observation, reward = self._observe(action), float(self._count)
        if kind == "nonfinite":
            observation["state"][0] = np.nan
        elif kind == "reward":
            reward = np.inf
        return observation, reward, done and even, done and not even, {"cost": 1.0}

    def _fault(self) -> FaultKind | None:
        """How this step fails, if it does; it does not come back from all kinds."""
        draw = zlib.crc32(f"{self._seed} {self._total}".encode()) if self._fault_every else 1
        if not self._fault_every or draw % self._fault_every:
            return None
        kind = self._fault_kinds[draw // self._fault_every % len(self._fault_kinds)]
        if self._fault_log:
            with open(self._fault_log, "a") as log:
                log.write(f"{kind} {self._seed} {self._total}\n")
        if kind == "exception":
            raise RuntimeError(f"the counter fails at {self._total}")
        if kind == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "timeout":
            time.sleep(1e6)
        return kind

    def render(self) -> Any:
        return np.full(IMAGE_SHAPE, self._total % 256, np.uint8)

    def _observe(self, action: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {
            "image": np.full(IMAGE_SHAPE, self._total % 256, np.uint8),
            "state": np.array([self._count, self._total, *action], np.float32),
            "count": np.array([self._count, self._total], np.int64),
        }


if COUNTER_ID not in gymnasium.registry:
    gymnasium.register(COUNTER_ID, entry_point="envs.testing.counter:CounterEnv", disable_env_checker=True)
