"""The options of the driving environments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from envs.carla.actions import ActionKind, action_spec
from envs.carla.metrics import metric_kinds
from envs.carla.rewards import RewardPreset, weights
from envs.carla.state import STATE_SIZE
from envs.carla.tasks import TASKS
from envs.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt, check_fields
from envs.specs import ArraySpec, EnvSpec

Backend = Literal["auto", "standin", "server", "program"]
ObservationPart = Literal["birdeye", "state", "camera", "lidar", "collision"]
Ending = Literal["collision", "off_route", "red_light", "stuck"]
Seconds = Annotated[float, Gt(0), Le(3600)]
Pixels = Annotated[int, Ge(16), Le(512)]
Port = Annotated[int, Ge(1), Le(65535)]

BIRDEYE_CHANNELS = 8
"""Of the masks, see `envs.carla.birdeye.LAYERS`."""


@dataclass(frozen=True)
class CarlaConfig:
    """A driving environment.

    Args:
        backend: "standin" starts the headless server of worldfleet; "program" starts CARLA from `program`; "server"
            uses one that runs at `host` and `port`; "auto" takes the one that the other options speak of, the stand-in
            where they name none.
        host: Where servers run, None for this machine.
        port: Of the first server's calls; None for 2000.
        servers: How many servers run, `port_step` ports apart; an environment takes one that is free.
        port_step: Ports from one server to the next.
        program: Path of CarlaUE4.sh.
        program_options: Further options of the program, separated by blanks.
        town: Map; None for the task's.
        xodr: File of OpenDRIVE to drive in, instead of a town.
        server_seed: Of what is random on the stand-in.
        vehicles: Other vehicles; None for the task's number.
        weather: Name of a weather of `carla.WeatherParameters`, e.g. "WetNoon"; None leaves it.
        vehicle: Blueprint of the driven car.
        observation: Parts of the observation.
        birdeye_size: Height and width of the bird's-eye view, pixels.
        birdeye_metres: Height and width that it shows, m.
        birdeye_behind: How much of that is behind the car, m.
        birdeye_format: "colour" paints the layers over each other in three channels, "masks" gives one channel each.
        camera_size: Height and width of the camera's picture, pixels.
        camera_fov: Its horizontal field of view, degrees.
        lidar_size: Height and width of the histogram, pixels.
        lidar_metres: Height and width that it shows, m; the car is in its middle.
        lidar_channels: Beams above each other.
        action: "accelerate_steer", "steer_throttle_brake" or "discrete", see `envs.carla.actions`.
        tick_seconds: Simulated time of a tick, s.
        action_repeat: Ticks of a step.
        max_episode_steps: Steps after which an episode is truncated.
        route_metres: Length of a route, about; 0 for the task's.
        routes: How many fixed routes there are: the seed of a reset, divided by this, leaves the number of its route; 0
            draws any.
        reward_preset: "shaped" or "route_completion", see `envs.carla.rewards`.
        reward: Weights that replace those of the preset, by name of the term.
        target_speed: Speed that the reward asks for where the limit is not lower, m/s.
        ends_on: What ends an episode beside the end of the route.
        off_route_metres: Distance from the route that counts as having left it.
        stuck_seconds: How long the car may stand or crawl without cause, s.
        stuck_speed: What counts as that, m/s.
        blocked_seconds: How long it may do so with a cause: a red light, or a vehicle ahead.
        grace_ticks: Ticks after a spawn whose collisions are ignored, and which nobody sees.
        leader_speed: Of the car to be followed or overtaken, m/s; None for 6 and 3.
        spawn_tries: Routes tried until the car stands at the start of one.
        timeout_seconds: How long a call to the server may take, s.
        start_seconds: How long a server may take to start, s.
        frame_seconds: How long a sensor's frame is waited for, s.
        recycle_episodes: Episodes after which a server that the environment started is started afresh, 0 for never.
        recycle_megabytes: Resident memory at which it is, 0 for none.
    """

    backend: Backend = "auto"
    host: str | None = None
    port: Port | None = None
    servers: PositiveInt = 1
    port_step: PositiveInt = 8
    program: str | None = None
    program_options: str = ""
    town: str | None = None
    xodr: str | None = None
    server_seed: NonNegativeInt = 0
    vehicles: Annotated[int, Ge(0), Le(500)] | None = None
    weather: str | None = None
    vehicle: str = "vehicle.tesla.model3"
    observation: tuple[ObservationPart, ...] = ("birdeye", "state")
    birdeye_size: Pixels = 64
    birdeye_metres: Annotated[float, Ge(8), Le(200)] = 32.0
    birdeye_behind: Annotated[float, Ge(0), Le(100)] = 8.0
    birdeye_format: Literal["colour", "masks"] = "colour"
    camera_size: Pixels = 64
    camera_fov: Annotated[float, Ge(10), Le(170)] = 100.0
    lidar_size: Pixels = 64
    lidar_metres: Annotated[float, Ge(8), Le(200)] = 32.0
    lidar_channels: Annotated[int, Ge(1), Le(128)] = 16
    action: ActionKind = "accelerate_steer"
    tick_seconds: Annotated[float, Ge(0.005), Le(0.1)] = 0.1
    action_repeat: Annotated[int, Ge(1), Le(100)] = 1
    max_episode_steps: Annotated[int, Ge(1), Le(1_000_000)] = 500
    route_metres: Annotated[float, Ge(0), Le(10_000)] = 0.0
    routes: NonNegativeInt = 0
    reward_preset: RewardPreset = "shaped"
    reward: dict[str, float] = field(default_factory=dict)
    target_speed: Annotated[float, Gt(0), Le(60)] = 8.0
    ends_on: tuple[Ending, ...] = ("collision", "off_route", "red_light", "stuck")
    off_route_metres: Annotated[float, Gt(0), Le(100)] = 3.0
    stuck_seconds: Seconds = 10.0
    stuck_speed: NonNegativeFloat = 0.3
    blocked_seconds: Seconds = 90.0
    grace_ticks: Annotated[int, Ge(1), Le(100)] = 5
    leader_speed: Annotated[float, Ge(0), Le(60)] | None = None
    spawn_tries: Annotated[int, Ge(1), Le(100)] = 10
    timeout_seconds: Seconds = 10.0
    start_seconds: Seconds = 60.0
    frame_seconds: Seconds = 2.0
    recycle_episodes: NonNegativeInt = 0
    recycle_megabytes: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.observation:
            raise ValueError("observation must name at least one part, got none")
        if len(set(self.observation)) < len(self.observation):
            raise ValueError(f"observation names a part twice: {list(self.observation)}")
        if self.birdeye_behind >= self.birdeye_metres:
            raise ValueError(
                f"birdeye_behind must be less than birdeye_metres {self.birdeye_metres}, got {self.birdeye_behind}"
            )
        weights(self.reward_preset, self.reward)
        self._check_backend()

    def _check_backend(self) -> None:
        named = {
            "server": [name for name in ("host", "port") if getattr(self, name) is not None],
            "program": ["program"] if self.program is not None else [],
        }
        if self.backend == "program" and self.program is None:
            raise ValueError("backend=program needs the option program: the path of CarlaUE4.sh")
        if self.backend == "standin" and any(named.values()):
            raise ValueError(f"backend=standin takes no {' or '.join(named['server'] + named['program'])}")
        if self.backend == "server" and named["program"]:
            raise ValueError("backend=server takes no program")
        if self.program is not None and self.host is not None:
            raise ValueError("program is started on this machine: host must not be set with it")

    @property
    def server_kind(self) -> Literal["standin", "server", "program"]:
        """What the environment talks to."""
        if self.backend != "auto":
            return self.backend
        if self.program is not None:
            return "program"
        return "server" if self.host is not None or self.port is not None else "standin"

    @property
    def step_seconds(self) -> float:
        """Simulated seconds of a step."""
        return self.tick_seconds * self.action_repeat

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """Specs of the parts of the observation."""
        channels = 3 if self.birdeye_format == "colour" else BIRDEYE_CHANNELS
        every = {
            "birdeye": ArraySpec((self.birdeye_size, self.birdeye_size, channels), "uint8", 0.0, 255.0),
            "state": ArraySpec((STATE_SIZE,), "float32", -math.inf, math.inf),
            "camera": ArraySpec((self.camera_size, self.camera_size, 3), "uint8", 0.0, 255.0),
            "lidar": ArraySpec((self.lidar_size, self.lidar_size, 3), "uint8", 0.0, 255.0),
            "collision": ArraySpec((1,), "float32", 0.0, 1.0),
        }
        return {part: every[part] for part in self.observation}

    @property
    def reward_weights(self) -> Mapping[str, float]:
        """Name of a term -> weight, of those that count."""
        return weights(self.reward_preset, self.reward)

    def spec(self, name: str) -> EnvSpec:
        """The spec of the environment called `name`.

        Raises:
            ValueError: There is no such task.
        """
        assert name in TASKS
        return EnvSpec(
            name=name,
            observation=self.arrays,
            action=action_spec(self.action),
            max_episode_steps=self.max_episode_steps,
            step_seconds=self.step_seconds,
            metrics=metric_kinds(self.reward_weights),
        )
