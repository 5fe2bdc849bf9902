"""Driving in CARLA as a Gymnasium environment: `carla_lane`, `carla_traffic`, ..., on the client's public API alone.

A car starts at the beginning of a route and drives it to its end. On the stand-in server the results are integration
results, never CARLA results. See `envs.carla.config.CarlaConfig` for the options, `envs.carla.actions` for the actions
(steering is positive to the right), `envs.carla.state` and `envs.carla.birdeye` for what is observed,
`envs.carla.rewards` for the reward and `envs.carla.metrics` for what an episode is judged by.

The end of the route, a collision, leaving the route, a red light and being stuck terminate an episode (`ends_on` says
which); the limit of steps and the loss of the server truncate it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.adapters import box_of
from envs.carla.actions import pedals
from envs.carla.birdeye import BirdeyeView
from envs.carla.canvas import Canvas
from envs.carla.client import ServerLost
from envs.carla.config import CarlaConfig
from envs.carla.episode import Episode
from envs.carla.lights import RouteLights, show
from envs.carla.observation import ObservationParts, mounts
from envs.carla.rewards import terms
from envs.carla.route_choice import RouteChooser
from envs.carla.scene import Scene
from envs.carla.simulation import Simulation, read_raster, read_roads
from envs.carla.supervisor import Supervisor
from envs.carla.tasks import TASKS
from envs.carla.versions import check_client
from envs.names import unknown_name
from envs.specs import MetricKind

logger = logging.getLogger(__name__)

Observation: TypeAlias = dict[str, NDArray[Any]]

RESET_OPTIONS = ("vehicles", "weather", "route_seed")
_RESET_TRIES = 3
_LEADER_GAP = {"follow": 18.0, "slow": 30.0}
_LEADER_SPEED = {"follow": 6.0, "slow": 3.0}
_VIEW_SIZE, _VIEW_METRES = 256, 80.0
_MARGIN = 60.0
"""Ground around a map that views may show, m."""


class CarlaEnv(gym.Env[Observation, Any]):
    """Drive a route.

    Args:
        name: Of the task, a key of `envs.carla.tasks.TASKS`.
        config: Options.
        render_mode: None or "rgb_array"; `render()` works under both.

    Raises:
        ValueError: An option, or the server, cannot be used: its version, its towns, or there is none.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, name: str, config: CarlaConfig | None = None, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.config = config = config or CarlaConfig()
        self.task, self.render_mode = TASKS[name], render_mode
        check_client()
        self._xodr = None if config.xodr is None else _read_xodr(config.xodr)
        spec = config.spec(name)
        self.metrics: Mapping[str, MetricKind] = spec.metrics
        self.observation_space = gym.spaces.Dict({key: box_of(part) for key, part in spec.observation.items()})
        self.action_space = _action_space(spec.action)
        self._weights = config.reward_weights
        self._server = Supervisor(config, config.town or self.task.town)
        self._simulation: Simulation | None = None
        self._episode: Episode | None = None
        self._observation: Observation = {}
        self._restarts_told = 0
        self._server.start()
        logger.info("%s drives on: %s", name, self._server.backend)
        try:
            self._open()
        except ServerLost as lost:
            self.close()
            raise ValueError(str(lost)) from None
        except BaseException:
            self.close()
            raise

    @property
    def max_episode_steps(self) -> int:
        return self.config.max_episode_steps

    @property
    def step_seconds(self) -> float:
        return self.config.step_seconds

    @property
    def backend(self) -> str:
        """What the environment talks to."""
        return self._server.backend

    def server_processes(self) -> list[int]:
        """Ids of the processes of a server that the environment started."""
        return self._server.processes()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; a server that is lost meanwhile is replaced.

        Args:
            seed: Of the routes and of the traffic of this and the following episodes.
            options: For this episode: `vehicles`, `weather` as in the configuration; `route_seed` chooses the route.

        Raises:
            ValueError: For an unknown option, or one that does not fit.
            RuntimeError: The server cannot be brought back.
        """
        options = dict(options or {})
        for option in options:
            if option not in RESET_OPTIONS:
                raise ValueError(unknown_name("reset option", option, RESET_OPTIONS))
        super().reset(seed=seed)
        seeds = self.np_random.integers(2**31, size=2).tolist()
        if self.config.routes:
            seeds[0] = (seeds[0] if seed is None else seed) % self.config.routes
        if "route_seed" in options:
            seeds[0] = int(options["route_seed"])
        for _ in range(_RESET_TRIES):
            try:
                if self._server.is_due():
                    self._close_simulation()
                    self._server.recycle()
                    self._open()
                return self._begin(seeds, options)
            except ServerLost as lost:
                self._replace_server(lost)
        raise RuntimeError(f"no episode begins, however often the server is replaced ({_RESET_TRIES} times)")

    def _begin(self, seeds: list[int], options: Mapping[str, Any]) -> tuple[Observation, dict[str, Any]]:
        config, task = self.config, self.task
        count = options.get("vehicles", config.vehicles)
        count = task.vehicles if count is None else int(count)
        simulation, gap = self.simulation, None if task.leader is None else _LEADER_GAP[task.leader]
        for attempt in range(config.spawn_tries):
            route_rng, traffic_rng = (np.random.default_rng([seed, attempt]) for seed in seeds)
            route = self._chooser.draw(route_rng)
            scene = simulation.begin(route, count, options.get("weather", config.weather), traffic_rng, gap)
            if scene is not None:
                break
        else:
            raise ServerLost(f"the car stands at the start of none of {config.spawn_tries} routes")
        self._canvas.set_route(route.points)
        lights = RouteLights(simulation.stops, route, simulation.half_size[0])
        self._episode = Episode(config, route, lights, simulation.half_size)
        self._episode.begin(scene)
        self._observation = self._observe(scene, collided=False)
        return self._observation, self._info({}, scene)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Drive for `action_repeat` ticks, fewer if the episode ends.

        Raises:
            ValueError: The action is none; nothing has changed then.
            RuntimeError: The episode is over.
        """
        chosen = pedals(self.config.action, action)
        episode = self._episode
        if episode is None or episode.is_over:
            raise RuntimeError("the episode is over; call reset first")
        parts = dict.fromkeys(self._weights, 0.0)
        wanted = self.config.leader_speed
        leader_speed = wanted if wanted is not None else _LEADER_SPEED.get(self.task.leader or "", 0.0)
        try:
            for _ in range(self.config.action_repeat):
                scene = self.simulation.step(chosen, leader_speed)
                facts = episode.advance(scene, chosen, self.simulation.impacts())
                for name, value in terms(facts, self._weights).items():
                    parts[name] += value
                if episode.is_over:
                    break
            episode.end_step()
            self._observation = self._observe(scene, collided=episode.collided_now)
        except ServerLost as lost:
            return self._lose(episode, lost)
        truncated = episode.is_truncated
        return self._observation, sum(parts.values()), episode.is_terminated, truncated, self._info(parts, scene)

    def _lose(self, episode: Episode, lost: ServerLost) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The episode ends, truncated, where it was; its server is replaced."""
        episode.cut()
        try:
            self._replace_server(lost)
        except ServerLost as error:
            raise RuntimeError(str(error)) from None
        return self._observation, 0.0, False, True, self._info({}, None)

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """The surroundings from above, [256, 256, 3]."""
        if self._episode is None:
            return np.zeros((_VIEW_SIZE, _VIEW_SIZE, 3), np.uint8)
        scene = self._episode.scene
        ego = scene.ego
        return self._overview.draw(ego.x, ego.y, ego.yaw, scene.bodies, scene.relative())

    def close(self) -> None:
        self._close_simulation()
        self._server.close()

    @property
    def simulation(self) -> Simulation:
        """The world of the present server."""
        assert self._simulation is not None, "open"
        return self._simulation

    @property
    def episode(self) -> Episode:
        """The present episode, for drivers by rule and for drawing."""
        assert self._episode is not None, "reset"
        return self._episode

    def _open(self) -> None:
        """Meet the world of the present server."""
        config = self.config
        port = None if config.server_kind == "standin" else self._server.traffic_port
        self._simulation = Simulation(self._server.client, config, self.task, self._xodr, port, mounts(config))
        roads = self._simulation.roads
        self._chooser = RouteChooser(roads, self.task.route, config.route_metres or self.task.metres)
        pixel = 0.5 * config.birdeye_metres / config.birdeye_size
        self._canvas = Canvas(read_raster(roads, min(pixel, 0.25), _MARGIN))
        self._canvas.set_lines([stop.line for stop in self._simulation.stops])
        half = self._simulation.half_size
        self._parts = ObservationParts(config, self._canvas, half)
        self._overview = BirdeyeView(self._canvas, _VIEW_SIZE, _VIEW_METRES, 0.25 * _VIEW_METRES, half)

    def _replace_server(self, lost: ServerLost) -> None:
        if self._simulation is not None:
            self._simulation.close(is_lost=True)
            self._simulation = None
        self._server.restart(str(lost))
        try:
            self._open()
        except ValueError as error:
            raise ServerLost(str(error)) from None

    def _close_simulation(self) -> None:
        if self._simulation is not None:
            self._simulation.close()
            self._simulation = None

    def _observe(self, scene: Scene, collided: bool) -> Observation:
        simulation = self.simulation
        if simulation.stops:
            self._canvas.show_lines(show(simulation.stops))
        return self._parts.observe(scene, self.episode, simulation.measure, collided)

    def _info(self, parts: Mapping[str, float], scene: Scene | None) -> dict[str, Any]:
        """The metrics of a step; those of an episode's first one do not count, so restarts are told by the next."""
        told = (
            0 if self.episode.steps == 0 and not self.episode.is_over else self._server.restarts - self._restarts_told
        )
        self._restarts_told += told
        info: dict[str, Any] = {
            **self.episode.figures.as_info(),
            **{f"reward_{name}": parts.get(name, 0.0) for name in self._weights},
            "speed": 0.0 if scene is None else scene.ego.speed,
            "server_restarts": float(told),
            "ttc": self.episode.ttc,
        }
        return info


def _action_space(spec: Any) -> gym.spaces.Space[Any]:
    if spec.is_discrete:
        return gym.spaces.Discrete(spec.num_values)
    return box_of(spec)


def _read_xodr(path: str) -> str:
    """The text of an OpenDRIVE file that CARLA's library reads.

    Raises:
        ValueError: It is none, or cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"xodr {path!r} cannot be read: {error.strerror}") from None
    read_roads(Path(path).stem, text)
    return text
