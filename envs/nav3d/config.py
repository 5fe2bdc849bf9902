"""What a navigation episode is: every constant of the task, validated.

Units are SI: metres, seconds, kilograms, newtons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le

from envs.names import unknown_name
from envs.nav3d.layout import ROOM_HIGH, ROOM_LOW
from envs.numbers import Fraction, check_fields
from envs.specs import ArraySpec, EnvSpec, MetricKind

LayoutName = Literal["fixed", "random"]
FrameName = Literal["world", "heading"]
ViewName = Literal["top_down", "first_person"]
RendererName = Literal["ray", "gl"]
Positive = Annotated[float, Ge(1e-3), Le(1e3)]
NonNegative = Annotated[float, Ge(0), Le(1e3)]
Rate = Annotated[float, Ge(0), Le(10)]
Repeats = Annotated[int, Ge(1), Le(100)]

METRICS: dict[str, MetricKind] = {"collision": "sum", "cost": "sum", "is_success": "last"}
ROOM_MARGIN = 1.0
"""How far beyond the room observations reach: contacts are soft, m."""
LIDAR_HORIZONTAL_RAYS = 24
LIDAR_RAYS = LIDAR_HORIZONTAL_RAYS + 2

EPISODE_OPTIONS = ("drag_scale", "layout", "mass_scale", "wind_std")
"""Fields that `reset(options=...)` may change for one episode; `start` and `goal` may be given too."""


Bounds = tuple[Sequence[float], Sequence[float]]

_POSITION: Bounds = ((ROOM_LOW - ROOM_MARGIN).tolist(), (ROOM_HIGH + ROOM_MARGIN).tolist())
_OFFSET: Bounds = ((ROOM_LOW - ROOM_HIGH - ROOM_MARGIN).tolist(), (ROOM_HIGH - ROOM_LOW + ROOM_MARGIN).tolist())
_UNBOUNDED: Bounds = ([-math.inf] * 3, [math.inf] * 3)


def box_spec(*parts: Bounds) -> ArraySpec:
    """The float32 vector of parts with these bounds."""
    low, high = (tuple(chain.from_iterable(part[side] for part in parts)) for side in (0, 1))
    return ArraySpec((len(low),), "float32", low, high)


@dataclass(frozen=True)
class Nav3DConfig:
    """The navigation task.

    Args:
        layout: "fixed" places obstacles and hazards the same way always; "random" draws them per episode and adds
            the observation `lidar`.
        mass: Mass of the body, kg.
        drag: Linear drag, N s/m; the terminal speed per axis is `max_force / drag`.
        max_force: Thrust per axis at full action, N.
        mass_scale: Factor on `mass` (out-of-distribution knob).
        drag_scale: Factor on `drag` (out-of-distribution knob).
        wind_std: Stationary standard deviation of the gusts per axis, N; gusts are an Ornstein-Uhlenbeck process.
        wind_time: Correlation time of the gusts, s.
        frame: Axes of the action: "world", or "heading" (forward, left, up of the body's heading).
        turn_rate: How fast the heading follows the direction of travel, rad/s.
        step_seconds: Simulated time per control step, s.
        substeps: Physics steps per control step.
        action_repeat: Control steps per environment step; rewards and costs add up.
        max_episode_steps: Control steps after which an episode is truncated.
        goal_radius: Distance to the goal that counts as reaching it, m.
        min_goal_distance: Least distance from start to goal, m.
        progress_scale: Reward per metre of progress toward the goal.
        effort_penalty: Reward lost per control step at full effort (mean squared action of 1).
        goal_bonus: Reward for reaching the goal.
        collision_penalty: Reward lost per control step that ends in contact with an obstacle, the floor, a wall or the
            ceiling.
        lidar_range: Range of the lidar, m; farther is read as 1.
        render_size: Height and width of the pictures of `render()`, pixels.
    """

    layout: LayoutName = "fixed"
    mass: Positive = 1.0
    drag: NonNegative = 1.5
    max_force: Positive = 3.0
    mass_scale: Annotated[float, Ge(0.1), Le(10)] = 1.0
    drag_scale: Rate = 1.0
    wind_std: Rate = 0.0
    wind_time: Positive = 1.0
    frame: FrameName = "world"
    turn_rate: NonNegative = 2.0
    step_seconds: Positive = 0.1
    substeps: Repeats = 4
    action_repeat: Repeats = 1
    max_episode_steps: Annotated[int, Ge(1), Le(1_000_000)] = 200
    goal_radius: Annotated[float, Ge(0.1), Le(2)] = 0.5
    min_goal_distance: Annotated[float, Le(8)] = 3.0
    progress_scale: NonNegative = 1.0
    effort_penalty: NonNegative = 0.02
    goal_bonus: NonNegative = 2.0
    collision_penalty: NonNegative = 0.1
    lidar_range: Positive = 5.0
    render_size: Annotated[int, Ge(1), Le(4096)] = 256

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_goal_distance < self.goal_radius:
            raise ValueError(
                f"min_goal_distance must be at least the goal_radius {self.goal_radius}, got {self.min_goal_distance}"
            )

    @property
    def episode_steps(self) -> int:
        """Environment steps after which an episode is truncated."""
        return -(-self.max_episode_steps // self.action_repeat)

    @property
    def observation(self) -> dict[str, ArraySpec]:
        """Specs of the observations."""
        specs = {"state": box_spec(_POSITION, _UNBOUNDED, _OFFSET)}
        if self.layout == "random":
            specs["lidar"] = ArraySpec((LIDAR_RAYS,), "float32", 0.0, 1.0)
        return specs

    def spec(self, name: str) -> EnvSpec:
        """The spec of the environment called `name`."""
        return EnvSpec(
            name=name,
            observation=self.observation,
            action=ArraySpec((3,), "float32", -1.0, 1.0),
            max_episode_steps=self.episode_steps,
            step_seconds=self.step_seconds * self.action_repeat,
            metrics=METRICS,
        )


@dataclass(frozen=True)
class Nav3DImageConfig(Nav3DConfig):
    """The navigation task seen through a camera.

    Args:
        view: "top_down" looks at the whole room from above; "first_person" looks along the heading.
        image_size: Height and width of the observation, pixels.
        marker_radius: Radius of the spheres that stand for the body and the goal in the top-down view where they are
            larger, m; what they hide and touch is no matter. The body, of 0.25 m, is 3 pixels wide in 64; 0 draws it.
        grey: One luminance channel instead of red, green and blue.
        renderer: "ray" casts rays with MuJoCo on the CPU; "gl" uses OpenGL, opened in the process that renders, and
            draws no shadows, so that heights show by size alone.
    """

    view: ViewName = "top_down"
    image_size: Annotated[int, Ge(8), Le(1024)] = 64
    marker_radius: Annotated[float, Ge(0), Le(2)] = 0.5
    grey: bool = False
    renderer: RendererName = "ray"

    @property
    def observation(self) -> dict[str, ArraySpec]:
        """Specs of the observations."""
        return {"image": ArraySpec((self.image_size, self.image_size, 1 if self.grey else 3), "uint8", 0.0, 255.0)}


@dataclass(frozen=True)
class Nav3DCreatureConfig(Nav3DConfig):
    """The navigation task of a swimming creature that tires.

    The creature is light for its drag (time constant mass / drag = 0.13 s), see `envs.nav3d.creature`.

    Args:
        effort_cost: Stamina spent per second at full effort.
        rest_gain: Stamina regained per second at rest.
        tired_below: Stamina below which the force weakens.
        exhausted_force: Fraction of the force that is left at stamina 0.
    """

    mass: Positive = 0.2
    effort_cost: Rate = 0.25
    rest_gain: Rate = 0.15
    tired_below: Annotated[float, Ge(1e-3), Le(1)] = 0.5
    exhausted_force: Fraction = 0.2

    @property
    def observation(self) -> dict[str, ArraySpec]:
        """Specs of the observations."""
        return {"state": box_spec(_POSITION, _OFFSET, ([0.0], [1.0]))}


ConfigT = TypeVar("ConfigT", bound=Nav3DConfig)


def config_of_episode(config: ConfigT, options: Mapping[str, Any] | None) -> ConfigT:
    """`config` with the changes that `reset(options=...)` asks for; `start` and `goal` are left to the caller.

    Raises:
        ValueError: For an unknown option (with the nearest name) or an invalid value.
    """
    if not options:
        return config
    changes = {}
    for name, value in options.items():
        if name in EPISODE_OPTIONS:
            changes[name] = value
        elif name not in ("start", "goal"):
            raise ValueError(unknown_name("reset option", name, (*EPISODE_OPTIONS, "start", "goal")))
    return replace(config, **changes) if changes else config
