"""The navigation task as a Gymnasium environment: `nav3d`.

The observation `state` is [position (3), velocity (3), goal minus position (3)] in the world frame, the action a thrust
in [-1, 1]^3. With

    progress = |goal - position_t| - |goal - position_{t+1}|

the reward is progress_scale * progress - effort_penalty * mean(action^2) - collision_penalty * [in contact]
+ goal_bonus * [goal reached] of every control step, of which an environment step has `action_repeat`; reaching the goal
terminates, `max_episode_steps` truncates. Time spent in a hazard is a separate `cost` in info, never part of the
reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.adapters import box_of
from envs.nav3d.arena import Arena
from envs.nav3d.config import METRICS, Nav3DConfig, config_of_episode
from envs.nav3d.layout import (
    FIXED_LAYOUT,
    HAZARD_RADII,
    OBSTACLE_SIZES,
    ROOM_HIGH,
    ROOM_LOW,
    Layout,
    Vector,
    random_layout,
    sample_start_and_goal,
)
from envs.nav3d.render import Renderer, make_renderer
from envs.specs import MetricKind

Observation: TypeAlias = dict[str, NDArray[Any]]

ACTION_TOLERANCE = 1e-6
_TURN_SPEED = 0.2
"""Horizontal speed below which the heading stays, m/s."""


class Nav3DEnv(gym.Env[Observation, NDArray[np.float32]]):
    """Fly a thrust-driven sphere to a goal in a 10 x 10 x 4 m room with obstacles and hazards.

    Args:
        config: The task.
        render_mode: None or "rgb_array"; `render()` works under both.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]
    metrics: ClassVar[dict[str, MetricKind]] = METRICS
    checks_actions: ClassVar[bool] = True

    def __init__(self, config: Nav3DConfig | None = None, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.config = config or Nav3DConfig()
        self.render_mode = render_mode
        self.arena = Arena(self.config)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        observation = self.config.observation
        self.observation_space = gym.spaces.Dict({key: box_of(spec) for key, spec in observation.items()})
        self._has_lidar = "lidar" in observation
        self._overview: Renderer | None = None
        self._episode = self.config
        self._layout = FIXED_LAYOUT
        self._goal: Vector = np.zeros(3)
        self._goal_numbers = (0.0, 0.0, 0.0)
        self._hazard_numbers: list[tuple[float, float, float, float]] = []
        self._layout_info: dict[str, Any] = {}
        self._wind: Vector | None = None
        self._yaw = 0.0
        self._distance = 0.0
        self._steps = 0
        self._running = False

    @property
    def max_episode_steps(self) -> int:
        return self.config.episode_steps

    @property
    def step_seconds(self) -> float:
        return self.config.step_seconds * self.config.action_repeat

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds start, goal, layout and wind of this and the following episodes.
            options: For this episode only: `layout`, `mass_scale`, `drag_scale`, `wind_std` as in `Nav3DConfig`,
                `start` and `goal` as points [3] in m.

        Raises:
            ValueError: For an unknown option (with the nearest name) or an invalid value; the episode that was
                running goes on.
        """
        options = options or {}
        episode = config_of_episode(self.config, options)
        start, goal = (_point(options, name) for name in ("start", "goal"))
        super().reset(seed=seed)
        rng = self.np_random
        layout = FIXED_LAYOUT if episode.layout == "fixed" else random_layout(rng)
        for name, point in (("start", start), ("goal", goal)):
            if point is not None and not layout.is_free(point):
                raise ValueError(f"{name} {point.tolist()} is too close to a wall or an obstacle")
        start, goal = sample_start_and_goal(layout, episode.min_goal_distance, rng, start, goal)
        self._begin_episode(episode, layout, start, goal)
        return self._observe(), self._info(cost=self._cost(*start.tolist()), success=False, collision=False)

    def _begin_episode(self, episode: Nav3DConfig, layout: Layout, start: Vector, goal: Vector) -> None:
        self._episode = episode
        self._layout = layout
        self._goal = goal.copy()
        self._goal.flags.writeable = False
        self.arena.set_dynamics(episode.mass_scale, episode.drag_scale)
        self.arena.place(layout, start, goal)
        self._goal_numbers = tuple(goal.tolist())
        self._hazard_numbers = [
            (*c, r * r) for c, r in zip(layout.hazards.tolist(), HAZARD_RADII.tolist(), strict=True)
        ]
        self._layout_info = {
            "layout": layout.name,
            "goal": self._goal,
            "obstacles": _read_only(np.hstack([layout.obstacles, OBSTACLE_SIZES])),
            "hazards": _read_only(np.column_stack([layout.hazards, HAZARD_RADII])),
        }
        self._wind = self.np_random.normal(0.0, episode.wind_std, 3) if episode.wind_std > 0 else None
        self._gust_decay = math.exp(-episode.step_seconds / episode.wind_time)
        self._gust_std = episode.wind_std * math.sqrt(1.0 - self._gust_decay**2)
        self._yaw = math.atan2(goal[1] - start[1], goal[0] - start[0])
        self._distance = float(np.linalg.norm(goal - start))
        self._steps = 0
        self._running = True
        if self._overview is not None:
            self._overview.begin_episode()

    def step(self, action: NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply a thrust for `action_repeat` control steps, fewer if the episode ends; rewards and costs add up.

        Args:
            action: [3] fractions of the greatest force per axis, in [-1, 1].

        Raises:
            ValueError: If `action` is not three finite numbers in [-1, 1]; nothing has changed then.
            RuntimeError: If the episode is over.
        """
        thrust = _checked(action)
        if not self._running:
            raise RuntimeError("the episode is over; call reset first")
        reward, cost = 0.0, 0.0
        success = collision = truncated = False
        for _ in range(self.config.action_repeat):
            gain, expense, contact, success = self._simulate(thrust)
            reward, cost, collision = reward + gain, cost + expense, collision or contact
            truncated = not success and self._steps >= self._episode.max_episode_steps
            if success or truncated:
                break
        self._running = not (success or truncated)
        return self._observe(), reward, success, truncated, self._info(cost, success, collision)

    def _simulate(self, thrust: tuple[float, float, float]) -> tuple[float, float, bool, bool]:
        """One control step: its reward, its cost, whether it ends in contact, whether the goal is reached."""
        control = self._control(thrust)
        if self._wind is not None:
            self._wind *= self._gust_decay
            self._wind += self._gust_std * self.np_random.standard_normal(3)
        collision = self.arena.advance(control, self._wind)
        self._steps += 1
        x, y, z = self.arena.position.tolist()
        goal_x, goal_y, goal_z = self._goal_numbers
        distance = math.sqrt((goal_x - x) ** 2 + (goal_y - y) ** 2 + (goal_z - z) ** 2)
        self._turn()
        config = self._episode
        success = distance <= config.goal_radius
        reward = config.progress_scale * (self._distance - distance) - config.effort_penalty * mean_square(thrust)
        if collision:
            reward -= config.collision_penalty
        if success:
            reward += config.goal_bonus
        self._distance = distance
        return reward, self._cost(x, y, z), collision, success

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The room from above at a slant, [render_size, render_size, 3]."""
        if self._overview is None:
            self._overview = make_renderer("ray", self.arena, "overview", self.config.render_size)
        return self._overview.draw()

    def close(self) -> None:
        if self._overview is not None:
            self._overview.close()
            self._overview = None

    def _observe(self) -> Observation:
        if self._has_lidar:
            return {"state": self._state(), "lidar": self.arena.lidar()}
        return {"state": self._state()}

    def _state(self) -> NDArray[np.float32]:
        state = np.empty(9, np.float32)
        position = self.arena.position
        state[:3] = position
        state[3:6] = self.arena.velocity
        state[6:] = self._goal - position
        return state

    def _control(self, thrust: tuple[float, float, float]) -> tuple[float, float, float]:
        """The thrust in world axes, as fractions of the greatest force."""
        if self.config.frame == "world":
            return thrust
        forward, left, up = thrust
        cos, sin = math.cos(self._yaw), math.sin(self._yaw)
        return forward * cos - left * sin, forward * sin + left * cos, up

    def _turn(self) -> None:
        """Turn the heading toward the direction of travel, at `turn_rate` at most."""
        east, north, _ = self.arena.velocity.tolist()
        if east * east + north * north < _TURN_SPEED**2:
            return
        error = math.remainder(math.atan2(north, east) - self._yaw, math.tau)
        limit = self.config.turn_rate * self.config.step_seconds
        self._yaw = math.remainder(self._yaw + min(max(error, -limit), limit), math.tau)

    def _cost(self, x: float, y: float, z: float) -> float:
        """1 while the body's centre is in a hazard, else 0."""
        for hazard_x, hazard_y, hazard_z, square in self._hazard_numbers:
            if (hazard_x - x) ** 2 + (hazard_y - y) ** 2 + (hazard_z - z) ** 2 <= square:
                return 1.0
        return 0.0

    def _info(self, cost: float, success: bool, collision: bool) -> dict[str, Any]:
        return {
            "cost": cost,
            "is_success": success,
            "collision": collision,
            "qpos": self.arena.position.copy(),
            "qvel": self.arena.velocity.copy(),
            "yaw": self._yaw,
            **self._layout_info,
        }


def _checked(action: NDArray[Any]) -> tuple[float, float, float]:
    """The action as three numbers in [-1, 1]; rounding at the edge of the box is forgiven."""
    action = np.asarray(action)
    if action.shape != (3,):
        raise ValueError(f"action must have shape (3,), got {action.tolist()!r} of shape {action.shape}")
    x, y, z = action.tolist()
    limit = 1.0 + ACTION_TOLERANCE
    if not (-limit <= x <= limit and -limit <= y <= limit and -limit <= z <= limit):
        raise ValueError(f"action must be finite and in [-1, 1], got {action.tolist()!r}")
    return min(max(x, -1.0), 1.0), min(max(y, -1.0), 1.0), min(max(z, -1.0), 1.0)


def mean_square(thrust: tuple[float, float, float]) -> float:
    """Mean squared thrust, in [0, 1]."""
    x, y, z = thrust
    return (x * x + y * y + z * z) / 3.0


def _point(options: Mapping[str, Any], name: str) -> Vector | None:
    """The point [3] that `options` gives for `name`, if any."""
    if options.get(name) is None:
        return None
    point = np.asarray(options[name], np.float64)
    if point.shape != (3,) or not (np.all(point >= ROOM_LOW) and np.all(point <= ROOM_HIGH)):
        raise ValueError(f"{name} must be three numbers inside the room, got {options[name]!r}")
    return point


def _read_only(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array.flags.writeable = False
    return array
