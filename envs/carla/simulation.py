"""One map on one server, driven in steps: the car, its sensors, the traffic and what a tick brings.

All calls to a server are made here and in what this module uses; that a server is lost shows as `ServerLost`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import carla
import numpy as np

from envs.carla.actions import Pedals
from envs.carla.client import ServerLost
from envs.carla.config import CarlaConfig
from envs.carla.driver import drive
from envs.carla.lights import Stop, find_stops
from envs.carla.road_raster import RoadRaster, draw_road
from envs.carla.roads import Roads
from envs.carla.route import Route
from envs.carla.scene import Body, Scene, bodies_of, half_sizes, read_scene
from envs.carla.sensors import Impact, Mount, Sensors, destroy
from envs.carla.tasks import Task
from envs.carla.traffic import SPAWN_HEIGHT, Traffic
from envs.names import nearest, unknown_name

logger = logging.getLogger(__name__)

_LOAD_SECONDS = 120.0
"""How long a server may take to load a map."""
_MOVED = 3.0
"""How far from its start a car may stand after the first ticks, m."""


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """What the client raises where a server does not answer is raised as `ServerLost`."""
    try:
        yield
    except ServerLost:
        raise
    except RuntimeError as error:
        raise ServerLost(" ".join(str(error).split()) or type(error).__name__) from error
    except LookupError as error:
        raise ServerLost(str(error)) from error


@lru_cache(maxsize=4)
def read_roads(name: str, xodr: str) -> Roads:
    """The roads of a map, read once in a process."""
    return Roads(name, xodr)


@lru_cache(maxsize=4)
def read_raster(roads: Roads, pixel_metres: float, margin: float) -> RoadRaster:
    """Their picture, drawn once in a process."""
    return draw_road(roads, pixel_metres, margin)


class Simulation:
    """A world of a server, in synchronous mode.

    Args:
        client: A `carla.Client` that has seen the server's version.
        config: The environment.
        task: Its task.
        xodr: OpenDRIVE of the map to drive in, None for a town.
        manager_port: See `envs.carla.traffic.Traffic`.
        mounts: Name -> sensor.

    Raises:
        ValueError: The server lacks the town, the vehicle or the weather.
        ServerLost: The server does not answer.
    """

    def __init__(
        self,
        client: Any,
        config: CarlaConfig,
        task: Task,
        xodr: str | None,
        manager_port: int | None,
        mounts: Mapping[str, Mount],
    ) -> None:
        self._client, self._config, self._task = client, config, task
        self._sizes: dict[str, tuple[float, float]] = {}
        self._bodies: list[Body] = []
        self._leader: Any = None
        self._leader_route: Route | None = None
        self._born = 0
        with asking():
            self.world = self._load(xodr)
            self._before = self.world.get_settings()
            self._synchronise()
            server_map = self.world.get_map()
            name = server_map.name.rsplit("/", 1)[-1]
            self.roads = read_roads(name, server_map.to_opendrive())
            self._traffic = Traffic(client, self.roads, manager_port)
            self.stops: list[Stop] = find_stops(self.world)
            self.car = self._spawn_car()
            self.half_size = half_sizes(self._sizes, self.car)
            self._sensors = Sensors(self.world, self.car, mounts)

    @property
    def town(self) -> str:
        """Name of the map."""
        return self.roads.name

    def begin(
        self, route: Route, vehicles: int, weather: str | None, rng: np.random.Generator, leader_gap: float | None
    ) -> Scene | None:
        """Put the car at the start of a route, and the other vehicles around it.

        Args:
            route: Its first point is where the car is put.
            vehicles: How many others.
            weather: Name, None to leave it.
            rng: For the others.
            leader_gap: Of a car ahead on the route, m; None without one.

        Returns:
            The scene after the ticks that let the car settle; None if it does not stand there.

        Raises:
            ValueError: There is no such weather.
            ServerLost: The server does not answer.
        """
        settings = _weather(weather)
        with asking():
            self._clear()
            if settings is not None:
                self.world.set_weather(settings)
            self.world.reset_all_traffic_lights()
            x, y = route.point_at(0.0)
            self.car.set_transform(_pose(route, 0.0))
            self.car.set_target_velocity(carla.Vector3D())
            self.car.set_target_angular_velocity(carla.Vector3D())
            self._apply(Pedals(brake=1.0))
            self._traffic.begin(vehicles, (x, y), rng)
            if leader_gap is not None:
                self._spawn_leader(route, leader_gap)
            self._tick()
            actors = self.world.get_actors()
            self._bodies = bodies_of(list(actors), self._sizes, {self.car.id: None})
            for _ in range(self._config.grace_ticks):
                frame = self._tick()
            self._born = frame
            self._sensors.take_impacts(frame)
            scene = self._scene(frame)
        if math.hypot(scene.ego.x - x, scene.ego.y - y) > _MOVED:
            return None
        return scene

    def step(self, pedals: Pedals, leader_speed: float) -> Scene:
        """Drive for a tick.

        Args:
            pedals: What the driver does.
            leader_speed: Of the car ahead, if there is one, m/s.

        Raises:
            ServerLost: The server does not answer, or the car is gone.
        """
        with asking():
            self._apply(pedals)
            if self._leader is not None:
                self._drive_leader(leader_speed)
            return self._scene(self._tick())

    def impacts(self) -> list[Impact]:
        """Collisions since the last call, without those of the ticks that let the car settle."""
        return self._sensors.take_impacts(self._born)

    def measure(self, name: str, frame: int) -> Any:
        """What a sensor measured in a frame.

        Raises:
            ServerLost: It does not come.
        """
        return self._sensors.read(name, frame, self._config.frame_seconds)

    def close(self, is_lost: bool = False) -> None:
        """Take away what was put into the world; a lost server is asked nothing."""
        if is_lost:
            self._sensors.forget()
            return
        try:
            with asking():
                numbers = self._sensors.stop()
                self._clear()
                destroy(self._client, [*numbers, self.car.id])
                self.world.apply_settings(self._before)
        except ServerLost as lost:
            logger.debug("the server was not tidied up: %s", lost)

    def _load(self, xodr: str | None) -> Any:
        """The world on the wanted map."""
        config, client = self._config, self._client
        world = client.get_world()
        if config.server_kind == "standin":
            return world
        client.set_timeout(_LOAD_SECONDS)
        try:
            if xodr is not None:
                return client.generate_opendrive_world(xodr)
            wanted = config.town or self._task.carla_town
            if wanted is None or world.get_map().name.rsplit("/", 1)[-1] == wanted:
                return world
            there = sorted({name.rsplit("/", 1)[-1] for name in client.get_available_maps()})
            if wanted not in there:
                raise ValueError(
                    f"the server has no town {wanted!r}{nearest(wanted, there)}; it has {', '.join(there)}"
                )
            return client.load_world(wanted)
        finally:
            client.set_timeout(config.timeout_seconds)

    def _synchronise(self) -> None:
        settings = self.world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = self._config.tick_seconds
        settings.no_rendering_mode = "camera" not in self._config.observation
        self.world.apply_settings(settings)

    def _spawn_car(self) -> Any:
        library, wanted = self.world.get_blueprint_library(), self._config.vehicle
        names = [blueprint.id for blueprint in library.filter("vehicle.*")]
        if wanted not in names:
            raise ValueError(f"the server has no vehicle {wanted!r}{nearest(wanted, names)}")
        blueprint = library.find(wanted)
        blueprint.set_attribute("role_name", "hero")
        points = self.world.get_map().get_spawn_points()
        for point in points:
            car = self.world.try_spawn_actor(blueprint, point)
            if car is not None:
                return car
        raise ServerLost(f"none of the {len(points)} spawn points of the map is free")

    def _apply(self, pedals: Pedals) -> None:
        control = carla.VehicleControl(throttle=pedals.throttle, steer=pedals.steer, brake=pedals.brake)
        self.car.apply_control(control)

    def _tick(self) -> int:
        return int(self.world.tick(self._config.timeout_seconds))

    def _scene(self, frame: int) -> Scene:
        snapshot = self.world.get_snapshot()
        if snapshot.frame != frame:
            snapshot = self._wait_for(frame)
        return read_scene(snapshot, self.car.id, self._bodies)

    def _wait_for(self, frame: int) -> Any:
        """The snapshot of a frame; a tick that a server made late is skipped."""
        snapshot = self.world.get_snapshot()
        if snapshot.frame < frame:
            raise ServerLost(f"the server announced frame {frame} and is at {snapshot.frame}")
        return snapshot

    def _clear(self) -> None:
        """Take the other vehicles out of the world."""
        numbers = self._traffic.end()
        if self._leader is not None:
            numbers.append(self._leader.id)
            self._leader = None
        destroy(self._client, numbers)
        self._bodies = []

    def _spawn_leader(self, route: Route, gap: float) -> None:
        blueprint = self.world.get_blueprint_library().find(self._config.vehicle)
        blueprint.set_attribute("role_name", "leader")
        self._leader = self.world.try_spawn_actor(blueprint, _pose(route, gap))
        self._leader_route = Route(route.points, route.limit, route.width, route.height)
        self._leader_route.restart(gap)

    def _drive_leader(self, wanted: float) -> None:
        assert self._leader_route is not None
        transform, velocity = self._leader.get_transform(), self._leader.get_velocity()
        place, yaw = transform.location, math.radians(transform.rotation.yaw)
        where = self._leader_route.locate(place.x, place.y, yaw)
        speed = velocity.x * math.cos(yaw) + velocity.y * math.sin(yaw)
        pedals = drive(self._leader_route, where, (place.x, place.y, yaw), speed, wanted)
        control = carla.VehicleControl(throttle=pedals.throttle, steer=pedals.steer, brake=pedals.brake)
        self._leader.apply_control(control)


def _pose(route: Route, along: float) -> Any:
    """The pose of a vehicle on a route, a little above the road."""
    x, y = route.point_at(along)
    where = carla.Location(x, y, route.height_at(along) + SPAWN_HEIGHT)
    return carla.Transform(where, carla.Rotation(yaw=math.degrees(route.yaw_at(along))))


def _weather(name: str | None) -> Any:
    """Parameters of a weather; ValueError for an unknown one."""
    if name is None:
        return None
    names = [each for each in dir(carla.WeatherParameters) if each[:1].isupper()]
    if name not in names:
        raise ValueError(unknown_name("weather", name, names))
    return getattr(carla.WeatherParameters, name)
