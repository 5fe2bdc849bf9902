"""All sensors of a world: made when they are spawned, asked when somebody listens and their time has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgpack

from envs.carla.standin.actors import Actor
from envs.carla.standin.layouts import SENSOR_TYPES
from envs.carla.standin.scenery import Scenery
from envs.carla.standin.sensors.base import Part, Sensor, Settings, View
from envs.carla.standin.sensors.camera import KINDS, Camera
from envs.carla.standin.sensors.inertial import Gnss, Imu
from envs.carla.standin.sensors.lidar import Lidar
from envs.carla.standin.sensors.radar import Radar
from envs.carla.standin.snapshot import sensor_header
from envs.carla.standin.world import World

COLLISION = "sensor.other.collision"
_EARLY = 1e-6
"""Seconds by which rounding may make a step too short."""


class Rig:
    """The sensors of one world.

    Args:
        world: The world.
        scenery: Of its town; called once somebody needs it.
    """

    def __init__(self, world: World, scenery: Callable[[], Scenery]) -> None:
        self._world, self._make_scenery = world, scenery
        self._sensors: dict[int, tuple[Actor, Sensor, float]] = {}
        self._last: dict[int, float] = {}
        self._collisions: dict[int, Actor] = {}

    def add(self, actor: Actor) -> None:
        """A sensor was spawned; ValueError where its attributes make none."""
        settings, name = Settings(actor.attributes), actor.blueprint
        seed = int(settings.number("noise_seed")) + self._world.seed
        if name == COLLISION:
            self._collisions[actor.number] = actor
            return
        if name in KINDS:
            sensor: Sensor = Camera(name, settings)
        elif name.startswith("sensor.lidar."):
            sensor = Lidar(name, settings, seed)
        elif name == "sensor.other.radar":
            sensor = Radar(settings, seed)
        elif name == "sensor.other.imu":
            sensor = Imu(settings, seed)
        elif name == "sensor.other.gnss":
            sensor = Gnss(settings, seed)
        else:
            return
        if not isinstance(sensor, Imu | Gnss):
            self._scenery()  # painted now, not within a step
        self._sensors[actor.number] = (actor, sensor, settings.number("sensor_tick", 0.0))
        self._last[actor.number] = self._world.seconds

    def remove(self, number: int) -> None:
        """An actor is gone."""
        self._collisions.pop(number, None)
        if self._sensors.pop(number, None) is not None:
            del self._last[number]

    def _scenery(self) -> Scenery:
        scenery = self._make_scenery()
        scenery.refresh(self._world)
        return scenery

    def measure(self, wanted: Callable[[Actor], bool]) -> Iterator[tuple[Actor, list[Part]]]:
        """The messages of this frame: sensor and parts.

        Args:
            wanted: Whether somebody listens to a sensor.
        """
        world = self._world
        for number, (actor, sensor, tick) in self._sensors.items():
            since = world.seconds - self._last[number]
            if since < tick - _EARLY or not wanted(actor):
                continue
            self._last[number] = world.seconds
            pose = world.pose(actor)
            body = sensor.measure(View(world, self._scenery, actor, pose, since if tick else world.delta))
            yield actor, [sensor_header(SENSOR_TYPES[actor.blueprint], world, pose), *body]
        for hit in world.hits:
            for actor in self._collisions.values():
                if actor.parent is hit.actor and wanted(actor):
                    header = sensor_header(SENSOR_TYPES[COLLISION], world, world.pose(actor))
                    yield actor, [header, msgpack.packb([hit.actor.wire(), hit.other.wire(), list(hit.impulse)])]
