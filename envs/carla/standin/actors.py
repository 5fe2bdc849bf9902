"""Actors: everything in the world that has a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from envs.carla.pose import Pose
from envs.carla.standin.layouts import NO_TOKEN, transform

VEHICLE, WALKER, SENSOR, PROP = "vehicle", "walker", "sensor", "prop"
LIGHT, SIGN, SPECTATOR = "light", "sign", "spectator"
"""Kinds of actors."""

TAGS = {VEHICLE: 14, WALKER: 12, PROP: 20, LIGHT: 7, SIGN: 8}
"""Semantic tags (Cityscapes numbers, as in CARLA since 0.9.14)."""


@dataclass(eq=False)
class Actor:
    """One actor.

    Args:
        number: Its id.
        kind: One of the kinds above.
        description: As the client gave it: uid, blueprint, attributes.
        pose: Where it is; relative to the parent where it has one.
        half_size: Of its bounding box, metres; None without one.
        parent: What it is fixed to.
        token: Of its stream, for sensors of the server.
        row: Its row among the vehicles or walkers, -1 for others.
        tag: Semantic tag of what a camera sees of it, 0 where it is not seen.
        color: Red, green and blue.
    """

    number: int
    kind: str
    description: list[Any]
    pose: Pose
    half_size: tuple[float, float, float] | None = None
    parent: Actor | None = None
    token: bytes = NO_TOKEN
    row: int = -1
    tag: int = 0
    color: tuple[int, int, int] = (150, 150, 150)
    collides: bool = True
    lights: int = 0
    box_pose: Pose | None = None
    children: list[Actor] = field(default_factory=list)

    @property
    def blueprint(self) -> str:
        """Identifier of the blueprint."""
        return str(self.description[1])

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes as text."""
        return {name: value for name, _, value in self.description[2]}

    def wire(self) -> list[Any]:
        """The record Actor of the protocol."""
        tags = bytes([self.tag]) if self.tag else b""
        parent = self.parent.number if self.parent is not None else 0
        return [self.number, parent, self.description, self.box(), tags, self.token]

    def box(self) -> list[Any]:
        """The record BoundingBox of the protocol."""
        size = self.half_size or (0.0, 0.0, 0.0)
        # Vehicles and props stand on their origin, a walker's is in its middle.
        middle = Pose(z=0.0 if self.kind == WALKER else size[2])
        place, rotation = transform(self.box_pose or middle)
        return [place, list(size), rotation, self.number]
