"""The sensors of the driven car: made once, read by frame number, stopped before they are destroyed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import carla

from envs.carla.client import ServerLost

_KEPT = 4
"""Frames of a sensor that are kept for whoever asks later."""


class SensorSilent(ServerLost):
    """A sensor did not deliver a frame."""


@dataclass(frozen=True)
class Mount:
    """What a sensor is and where it sits.

    Args:
        blueprint: Of the sensor.
        attributes: That differ from the blueprint's.
        place: x, y, z in the axes of the car, m.
        pitch: Degrees, up.
    """

    blueprint: str
    attributes: Mapping[str, str]
    place: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pitch: float = 0.0


@dataclass(frozen=True)
class Impact:
    """A collision that the sensor tells of."""

    frame: int
    other: str  # blueprint of what was hit


class Frames:
    """What one sensor delivered, by frame number; filled in the client's thread, read in the environment's."""

    def __init__(self) -> None:
        self._by_frame: dict[int, Any] = {}
        self._arrived = threading.Condition()

    def put(self, data: Any) -> None:
        """Called by the client for each frame."""
        with self._arrived:
            self._by_frame[int(data.frame)] = data
            while len(self._by_frame) > _KEPT:
                del self._by_frame[min(self._by_frame)]
            self._arrived.notify_all()

    def get(self, frame: int, seconds: float) -> Any:
        """The data of a frame, None if it does not come in time."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while frame not in self._by_frame:
                if not self._arrived.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return None
            return self._by_frame[frame]


class Sensors:
    """The sensors on one car.

    Args:
        world: A `carla.World`.
        car: A `carla.Vehicle`.
        mounts: Name -> sensor that gives a frame at each tick.
    """

    def __init__(self, world: Any, car: Any, mounts: Mapping[str, Mount]) -> None:
        self._actors: list[Any] = []
        self._frames = {name: Frames() for name in mounts}
        self._impacts: list[Impact] = []
        self._lock = threading.Lock()
        library = world.get_blueprint_library()
        collision = self._spawn(world, library, car, Mount("sensor.other.collision", {}))
        collision.listen(self._collided)
        for name, mount in mounts.items():
            self._spawn(world, library, car, mount).listen(self._frames[name].put)

    def read(self, name: str, frame: int, seconds: float) -> Any:
        """What a sensor measured in a frame.

        Raises:
            SensorSilent: It does not come in time.
        """
        data = self._frames[name].get(frame, seconds)
        if data is None:
            raise SensorSilent(f"the sensor {name!r} delivered no frame {frame} within {seconds:g} s")
        return data

    def take_impacts(self, after: int) -> list[Impact]:
        """The collisions since the last call, without those of frames up to `after`."""
        with self._lock:
            taken, self._impacts = self._impacts, []
        return [impact for impact in taken if impact.frame > after]

    def stop(self) -> list[int]:
        """Let nothing more come; returns the actors that are to be destroyed."""
        numbers = []
        for actor in self._actors:
            actor.stop()
            numbers.append(actor.id)
        self._actors = []
        return numbers

    def forget(self) -> None:
        """Close the streams of a server that is lost, without asking it anything."""
        for actor in self._actors:
            actor.stop()
        self._actors = []

    def _spawn(self, world: Any, library: Any, car: Any, mount: Mount) -> Any:
        blueprint = library.find(mount.blueprint)
        for name, value in mount.attributes.items():
            blueprint.set_attribute(name, value)
        where = carla.Transform(carla.Location(*mount.place), carla.Rotation(pitch=mount.pitch))
        actor = world.spawn_actor(blueprint, where, attach_to=car)
        self._actors.append(actor)
        return actor

    def _collided(self, event: Any) -> None:
        other = event.other_actor
        with self._lock:
            self._impacts.append(Impact(int(event.frame), other.type_id if other is not None else "static"))


def destroy(client: Any, numbers: list[int]) -> None:
    """Destroy actors in one batch."""
    if numbers:
        client.apply_batch_sync([carla.command.DestroyActor(number) for number in numbers], False)
