"""What every sensor is: a blueprint's settings, and a measurement of the world as it is."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.carla.pose import Pose
from envs.carla.standin.actors import Actor
from envs.carla.standin.scenery import Scenery
from envs.carla.standin.world import World

Part = bytes | memoryview


@dataclass(frozen=True)
class View:
    """The moment of a measurement.

    Args:
        world: The world.
        scenery: Makes what the rays meet; not needed by all.
        actor: The sensor.
        pose: Where it is.
        seconds: Since its last measurement.
    """

    world: World
    scenery: Callable[[], Scenery]
    actor: Actor
    pose: Pose
    seconds: float

    def rng(self, seed: int) -> np.random.Generator:
        """Noise that depends on the place and not on what was measured before: an episode can be played again."""
        return np.random.default_rng([seed, zlib.crc32(np.array(self.pose).tobytes())])

    @property
    def owner(self) -> int:
        """Id of what the sensor is fixed to, which it does not see; 0 for nothing."""
        return self.actor.parent.number if self.actor.parent is not None else 0


class Sensor(Protocol):
    """Measures."""

    def measure(self, view: View) -> list[Part]:
        """What follows the header of the message."""
        ...


class Settings:
    """Attributes of a blueprint as numbers.

    Args:
        attributes: As text.
    """

    def __init__(self, attributes: dict[str, str]) -> None:
        self._attributes = attributes

    def number(self, name: str, low: float = float("-inf"), high: float = float("inf")) -> float:
        """A number within its range; ValueError outside."""
        text = self._attributes.get(name, "0")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"attribute {name} must be in [{low:g}, {high:g}], not {text!r}")
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number within its range; ValueError outside."""
        return int(self.number(name, low, high))
