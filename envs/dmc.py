"""The DeepMind Control Suite (Tassa et al. 2018) as environments "dmc:<domain>-<task>"."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import gymnasium as gym
import mujoco
import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from envs.names import unknown_name
from envs.numbers import check_fields
from envs.options import config_from_options

ObservationName = Literal["state", "image", "both"]
Observation = dict[str, NDArray[Any]]

_RENDER_SIZE = 256
_CAMERAS = {"quadruped": 2}
"""The camera of a domain where it is not 0."""


@dataclass(frozen=True)
class DmcConfig:
    """How a task of the suite is seen and stepped.

    Args:
        observation: "state" joins all the task observes, "image" is a picture, "both" gives both.
        image_size: Height and width of the picture, pixels.
        camera: Index of the model's camera; -1 for the one that films the body: 2 of quadruped, 0 of all others.
        shadows: Whether OpenGL draws shadows and smooth edges; without a GPU they cost most of the time.
        action_repeat: Control steps per step; rewards add up.
        max_episode_frames: Control steps after which an episode is truncated, if the task does not end it before.
    """

    observation: ObservationName = "state"
    image_size: Annotated[int, Ge(8), Le(1024)] = 64
    camera: Annotated[int, Ge(-1), Le(100)] = -1
    shadows: bool = True
    action_repeat: Annotated[int, Ge(1), Le(100)] = 1
    max_episode_frames: Annotated[int, Ge(1), Le(1_000_000)] = 1000

    def __post_init__(self) -> None:
        check_fields(self)


class DmcEnv(gym.Env[Observation, NDArray[Any]]):
    """A task of the suite.

    `state` is float32 [D]: everything the task observes, flattened and joined in alphabetical order of the task's keys.
    The tasks have no end of their own but the time limit, which truncates; only where a task ends with discount 0
    (lqr) the episode terminates. Every random number of an episode follows from `np_random` at its reset.

    Args:
        domain: Domain of the suite, e.g. "walker".
        task: Task of the domain, e.g. "walk".
        config: How it is seen and stepped.
        render_mode: None or "rgb_array"; `render()` works under both.

    Raises:
        ValueError: If the model has no such camera.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}  # type: ignore[misc]

    def __init__(self, domain: str, task: str, config: DmcConfig | None = None, render_mode: str | None = None) -> None:
        suite = import_suite()
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.config = config = config or DmcConfig()
        self.render_mode = render_mode
        self._env = suite.load(domain, task, task_kwargs={"random": np.random.RandomState(0)})
        model = self._env.physics.model
        if config.camera >= model.ncam:
            raise ValueError(f"camera must be in [-1, {model.ncam - 1}] for {domain}-{task}, got {config.camera}")
        self._camera = _CAMERAS.get(domain, 0) if config.camera < 0 else config.camera
        if not config.shadows:
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
        action = self._env.action_spec()
        low, high = (np.broadcast_to(b, action.shape).astype(np.float32) for b in (action.minimum, action.maximum))
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)
        self._keys = sorted(self._env.observation_spec())
        size = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        spaces: dict[str, gym.Space[Any]] = {}
        if config.observation != "image":
            spaces["state"] = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        if config.observation != "state":
            spaces["image"] = gym.spaces.Box(0, 255, (config.image_size, config.image_size, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(spaces)
        self._frames = 0

    @property
    def max_episode_steps(self) -> int:
        return -(-self.config.max_episode_frames // self.config.action_repeat)

    @property
    def step_seconds(self) -> float:
        return float(self._env.control_timestep() * self.config.action_repeat)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `seed` fixes this and the following ones."""
        if options:
            raise ValueError(f"this environment takes no reset options, got {sorted(options)}")
        super().reset(seed=seed)
        self._env.task.random.seed(int(self.np_random.integers(2**32)))
        self._frames = 0
        return self._observe(self._env.reset().observation), {}

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take `action_repeat` control steps, fewer if the episode ends."""
        total, last = 0.0, min(self._frames + self.config.action_repeat, self.config.max_episode_frames)
        ended = False
        while not ended and self._frames < last:
            self._frames += 1
            step = self._env.step(action)
            total += step.reward
            ended = step.last()
        terminated = ended and step.discount == 0.0
        truncated = not terminated and (ended or self._frames == self.config.max_episode_frames)
        return self._observe(step.observation), total, terminated, truncated, {}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """What the camera sees, [256, 256, 3].

        Raises:
            RuntimeError: If no OpenGL backend works here.
        """
        return self._picture(_RENDER_SIZE)

    def close(self) -> None:
        self._env.close()

    def _observe(self, observed: Mapping[str, Any]) -> Observation:
        observation: Observation = {}
        if self.config.observation != "image":
            parts = [np.ravel(observed[key]) for key in self._keys]
            observation["state"] = np.concatenate(parts, dtype=np.float32, casting="same_kind")
        if self.config.observation != "state":
            observation["image"] = self._picture(self.config.image_size)
        return observation

    def _picture(self, size: int) -> NDArray[np.uint8]:
        try:
            picture: NDArray[np.uint8] = self._env.physics.render(size, size, camera_id=self._camera)
        except (mujoco.FatalError, ImportError, RuntimeError) as error:
            raise RuntimeError(
                f"pictures of dm_control need OpenGL ({error}); `worldfleet doctor` lists what MUJOCO_GL may be"
            ) from error
        return picture


def import_suite() -> Any:
    """`dm_control.suite`, which binds its OpenGL backend for good: EGL on a machine without a display.

    A value of `MUJOCO_GL` is obeyed. Where EGL is missing the suite draws no pictures.
    """
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return importlib.import_module("dm_control.suite")
    try:
        os.environ["MUJOCO_GL"] = "egl"
        return importlib.import_module("dm_control.suite")
    except ImportError:
        os.environ["MUJOCO_GL"] = "disable"
        return importlib.import_module("dm_control.suite")
    finally:
        del os.environ["MUJOCO_GL"]


def make(name: str, **options: Any) -> DmcEnv:
    """The environment behind "dmc:<domain>-<task>".

    Raises:
        ValueError: For an unknown task or option (with the nearest name), or an invalid value.
    """
    config = config_from_options(DmcConfig, options)
    suite = import_suite()
    domain, dash, task = name.removeprefix("dmc:").partition("-")
    tasks = suite.TASKS_BY_DOMAIN
    if domain not in tasks:
        raise ValueError(unknown_name("domain", domain, tasks) + f" in {name!r}")
    if not dash or task not in tasks[domain]:
        raise ValueError(unknown_name(f"task of {domain}", task, tasks[domain]) + f" in {name!r}")
    return DmcEnv(domain, task, config)
