"""What a snapshot says of the driven car and of everything that moves around it, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ego:
    """The driven car; x, y in m, y to the right of x seen from above; angles in rad, positive to the right."""

    x: float
    y: float
    z: float
    yaw: float
    forward: float  # velocity, m/s
    side: float  # to the right
    acceleration_forward: float  # m/s^2
    acceleration_side: float
    yaw_rate: float  # rad/s

    @property
    def speed(self) -> float:
        """m/s."""
        return math.hypot(self.forward, self.side)


@dataclass(frozen=True)
class Body:
    """Something else that moves."""

    number: int  # id of its actor
    half_length: float  # m
    half_width: float
    is_walker: bool = False


@dataclass(frozen=True)
class Scene:
    """One frame."""

    frame: int
    ego: Ego
    bodies: Sequence[Body]
    poses: Floats  # [V, 5] x, y, yaw, velocity x and y in the world, of the bodies

    def relative(self) -> Floats:
        """[V, 5] forward, right, yaw, and velocity forward and right relative to the car, in its axes."""
        ego = self.ego
        cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
        turn = np.array([[cos, -sin], [sin, cos]])
        out = np.empty_like(self.poses)
        out[:, :2] = (self.poses[:, :2] - (ego.x, ego.y)) @ turn
        out[:, 2] = self.poses[:, 2] - ego.yaw
        out[:, 3:] = self.poses[:, 3:] @ turn - (ego.forward, ego.side)
        return out


def read_scene(snapshot: Any, ego_number: int, bodies: Sequence[Body]) -> Scene:
    """The scene of a `carla.WorldSnapshot`.

    Args:
        snapshot: It.
        ego_number: Actor of the driven car.
        bodies: The others; those that are gone are left out.

    Raises:
        LookupError: The driven car is not there any more.
    """
    actor = snapshot.find(ego_number)
    if actor is None:
        raise LookupError(f"the driven car (actor {ego_number}) is not in the world any more")
    there: list[Body] = []
    rows: list[tuple[float, float, float, float, float]] = []
    find, radians = snapshot.find, math.radians
    for body in bodies:
        other = find(body.number)
        if other is not None:
            transform, velocity = other.get_transform(), other.get_velocity()
            place = transform.location
            rows.append((place.x, place.y, radians(transform.rotation.yaw), velocity.x, velocity.y))
            there.append(body)
    poses = np.array(rows, np.float64).reshape(len(rows), 5)
    return Scene(int(snapshot.frame), _ego(actor), there, poses)


def _ego(actor: Any) -> Ego:
    transform, velocity = actor.get_transform(), actor.get_velocity()
    acceleration, rate = actor.get_acceleration(), actor.get_angular_velocity()
    place, yaw = transform.location, math.radians(transform.rotation.yaw)
    cos, sin = math.cos(yaw), math.sin(yaw)
    return Ego(
        place.x,
        place.y,
        place.z,
        yaw,
        velocity.x * cos + velocity.y * sin,
        velocity.y * cos - velocity.x * sin,
        acceleration.x * cos + acceleration.y * sin,
        acceleration.y * cos - acceleration.x * sin,
        math.radians(rate.z),
    )


def time_to_collision(relative: Floats, bodies: Sequence[Body], half_size: tuple[float, float], most: float) -> float:
    """Least time until the boxes of the car and another one touch if both go on as they do, s.

    The others are taken for boxes along the car's axes.

    Args:
        relative: See `Scene.relative`.
        bodies: As many.
        half_size: Of the car, m.
        most: What is said at most.
    """
    if not len(relative):
        return most
    sizes = np.array([(body.half_length, body.half_width) for body in bodies])
    cos, sin = np.abs(np.cos(relative[:, 2])), np.abs(np.sin(relative[:, 2]))
    reach = np.stack(
        [cos * sizes[:, 0] + sin * sizes[:, 1] + half_size[0], sin * sizes[:, 0] + cos * sizes[:, 1] + half_size[1]],
        axis=1,
    )
    velocity = np.where(np.abs(relative[:, 3:]) < 1e-6, 1e-6, relative[:, 3:])
    one, two = (-reach - relative[:, :2]) / velocity, (reach - relative[:, :2]) / velocity
    enter, leave = np.minimum(one, two).max(axis=1), np.maximum(one, two).min(axis=1)
    times = np.where((enter <= leave) & (leave >= 0.0), np.maximum(enter, 0.0), most)
    return float(min(times.min(), most))


def half_sizes(known: dict[str, tuple[float, float]], actor: Any) -> tuple[float, float]:
    """Half length and half width of an actor, m; asked of the server once for a blueprint."""
    found = known.get(actor.type_id)
    if found is None:
        extent = actor.bounding_box.extent
        found = known[actor.type_id] = (extent.x, extent.y)
    return found


def bodies_of(actors: Sequence[Any], known: dict[str, tuple[float, float]], but: Mapping[int, Any]) -> list[Body]:
    """Vehicles and walkers among the actors, without those of `but`."""
    return [
        Body(actor.id, *half_sizes(known, actor), is_walker=actor.type_id.startswith("walker."))
        for actor in actors
        if actor.id not in but and actor.type_id.startswith(("vehicle.", "walker."))
    ]
