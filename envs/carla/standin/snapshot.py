"""The state of the episode as the client gets it after each step."""

from __future__ import annotations

import time

import numpy as np

from envs.carla.pose import Pose
from envs.carla.standin.actors import LIGHT, VEHICLE, WALKER
from envs.carla.standin.layouts import (
    ACTOR_RECORD,
    EPISODE_HEADER,
    EPISODE_TYPE,
    GREEN,
    LIGHT_RECORD,
    RED,
    SENSOR_HEADER,
    VEHICLE_RECORD,
    WALKER_RECORD,
    YELLOW,
)
from envs.carla.standin.world import World

_ACTIVE = 1


class Snapshots:
    """Packs one world; the records of its vehicles are kept from step to step.

    Args:
        world: The world.
        episode: Its number.
    """

    def __init__(self, world: World, episode: int) -> None:
        self._world, self._episode = world, episode
        self._version = -1

    def pack(self, flags: int = 0) -> bytes:
        """The message of the world as it is.

        Args:
            flags: Whether the map has changed since the last one.
        """
        world = self._world
        if self._version != world.version:
            self._rebuild()
        self._fill_vehicles()
        if self._lights:
            self._fill_lights()
        self._fill_others()
        header = SENSOR_HEADER.pack(EPISODE_TYPE, world.frame, world.seconds, 0, 0, 0, 0, 0, 0)
        state = EPISODE_HEADER.pack(self._episode, time.time(), world.delta, 0, 0, 0, flags)
        return b"".join((header, state, self._records.tobytes()))

    def _rebuild(self) -> None:
        world = self._world
        self._version = world.version
        vehicles = world.vehicle_actors
        self._lights = world.light_actors
        self._others = [actor for actor in world.actors.values() if actor.kind not in (VEHICLE, LIGHT)]
        actors = vehicles + self._lights + self._others
        self._records = np.zeros(len(actors), ACTOR_RECORD)
        self._records["id"] = [actor.number for actor in actors]
        self._records["state"] = _ACTIVE
        self._vehicles = self._records[: len(vehicles)]
        self._details = np.zeros(len(vehicles), VEHICLE_RECORD)
        self._light_details = np.zeros(len(self._lights), LIGHT_RECORD)
        self._light_numbers = np.array([actor.number for actor in self._lights], np.uint32)
        self._light_details["sign_id"] = [light.signal.encode() for light in world.town.lights.lights]
        for row, actor in enumerate(self._lights, len(vehicles)):
            self._records["transform"][row] = actor.pose

    def _fill_vehicles(self) -> None:
        v, records, details = self._world.vehicles, self._vehicles, self._details
        if not len(records):
            return
        place = records["transform"]
        place[:, 0], place[:, 1], place[:, 2] = v.x, v.y, v.z
        place[:, 3], place[:, 5] = np.degrees(v.pitch), np.degrees(v.roll)
        place[:, 4] = (np.degrees(v.yaw) + 180.0) % 360.0 - 180.0
        velocity = records["velocity"]
        velocity[:, 0], velocity[:, 1], velocity[:, 2] = v.velocity_x, v.velocity_y, v.up
        records["angular_velocity"][:, 2] = np.degrees(v.yaw_rate)
        acceleration = records["acceleration"]
        acceleration[:, 0], acceleration[:, 1], acceleration[:, 2] = (
            v.acceleration_x,
            v.acceleration_y,
            v.acceleration_z,
        )
        for name in ("throttle", "steer", "brake", "hand_brake", "reverse", "manual", "gear"):
            details[name] = v.columns[name]
        details["speed_limit"] = v.limit
        details["light_state"] = GREEN
        details["has_light"] = 0
        if self._lights:
            zone = self._world.town.lights.zone
            at = np.where(self._world.nearest >= 0, zone[self._world.nearest], -1)
            details["has_light"] = at >= 0
            details["light_state"] = np.where(at >= 0, self._world.lights.state[at], GREEN)
            details["light_id"] = np.where(at >= 0, self._light_numbers[at], 0)
        records["kind"] = details.view("V54")

    def _fill_lights(self) -> None:
        cycle, details = self._world.lights, self._light_details
        for name, state in (("green", GREEN), ("yellow", YELLOW), ("red", RED)):
            details[name] = cycle.durations[state]
        details["elapsed"], details["frozen"], details["state"] = cycle.elapsed, cycle.frozen, cycle.state
        first = len(self._vehicles)
        self._records["kind"][first : first + len(details)] = details.view("V54")

    def _fill_others(self) -> None:
        world, first = self._world, len(self._vehicles) + len(self._lights)
        for row, actor in enumerate(self._others, first):
            self._records["transform"][row] = world.pose(actor)
            self._records["velocity"][row] = world.velocity(actor)
            if actor.kind == WALKER:
                walker = world.walker(actor.number)
                details = np.array([(walker.direction, walker.speed, walker.jump, b"")], WALKER_RECORD)
                self._records["kind"][row] = details.view("V54")[0]


def sensor_header(kind: int, world: World, pose: Pose) -> bytes:
    """The header of a measurement."""
    return SENSOR_HEADER.pack(kind, world.frame, world.seconds, *pose)
