"""The other vehicles of an episode: put on free lanes, driven by the server's traffic, taken away in one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import carla
import numpy as np

from envs.carla.blueprints import CARS
from envs.carla.roads import Roads

_APART = 9.0
"""Least distance between two vehicles at the start, m."""
_FREE_EGO = 14.0
"""And from the driven car."""
SPAWN_HEIGHT = 0.5


class Traffic:
    """Vehicles that the server drives.

    Args:
        client: A `carla.Client`.
        roads: Of the map.
        manager_port: Of the TrafficManager, None where the server drives vehicles by their role (the stand-in).
    """

    def __init__(self, client: Any, roads: Roads, manager_port: int | None) -> None:
        self._client, self._roads = client, roads
        self._numbers: list[int] = []
        self._manager: Any = None
        if manager_port is not None:
            self._manager = client.get_trafficmanager(manager_port)
            self._manager.set_synchronous_mode(True)
        self._library = client.get_world().get_blueprint_library()
        there = {blueprint.id for blueprint in self._library}
        self._cars = [name for name in CARS if name in there]
        self._places = [
            (index, step)
            for index, lane in enumerate(roads.lanes)
            if lane.junction < 0 and lane.length > 10.0
            for step in range(4, len(lane.points) - 4, 5)
        ]
        self._points = np.array([roads.lanes[lane].points[step, :2] for lane, step in self._places]).reshape(-1, 2)

    @property
    def numbers(self) -> Sequence[int]:
        """Actors of the vehicles."""
        return self._numbers

    def begin(self, count: int, around: tuple[float, float], rng: np.random.Generator) -> None:
        """Put vehicles on the road for an episode.

        Args:
            count: How many; fewer where there is no room, which is said once.
            around: Where the driven car is, m; vehicles come as near as they may, within a few hundred metres.
            rng: For places and models.
        """
        if count == 0:
            return
        chosen = self._choose(count, around, rng)
        if self._manager is not None:
            self._manager.set_random_device_seed(int(rng.integers(2**31)))
        spawn, autopilot, future = carla.command.SpawnActor, carla.command.SetAutopilot, carla.command.FutureActor
        commands = []
        for lane, step in chosen:
            blueprint = self._library.find(self._cars[int(rng.integers(len(self._cars)))])
            blueprint.set_attribute("role_name", "autopilot")
            command = spawn(blueprint, lane_transform(self._roads, lane, step))
            if self._manager is not None:
                command = command.then(autopilot(future, True, self._manager.get_port()))
            commands.append(command)
        results = self._client.apply_batch_sync(commands, False)
        self._numbers = [result.actor_id for result in results if not result.error]

    def end(self) -> list[int]:
        """Forget the vehicles; returns the actors that are to be destroyed."""
        numbers, self._numbers = self._numbers, []
        return numbers

    def _choose(self, count: int, around: tuple[float, float], rng: np.random.Generator) -> list[tuple[int, int]]:
        """Places (lane, step) that are far enough apart, the near ones first."""
        points = self._points
        gap = np.hypot(points[:, 0] - around[0], points[:, 1] - around[1])
        # Near ones are likelier, so that a few vehicles on a large map are met.
        order = np.argsort(gap + rng.exponential(60.0, len(gap)))
        taken: list[int] = []
        for index in order.tolist():
            if gap[index] < _FREE_EGO:
                continue
            near = points[taken] - points[index]
            if taken and float(np.hypot(near[:, 0], near[:, 1]).min()) < _APART:
                continue
            taken.append(index)
            if len(taken) == count:
                break
        return [self._places[index] for index in taken]


def lane_transform(roads: Roads, lane: int, step: int) -> Any:
    """The pose of a vehicle on a point of a lane, a little above the road."""
    record = roads.lanes[lane]
    x, y, z = record.points[step].tolist()
    return carla.Transform(
        carla.Location(x, y, z + SPAWN_HEIGHT), carla.Rotation(yaw=math.degrees(float(record.yaw[step])))
    )
