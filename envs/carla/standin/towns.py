"""The towns that come with the server, and those of the user's OpenDRIVE."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from envs.carla.standin.layouts import Pose
from envs.carla.standin.lights import find_lights
from envs.carla.standin.roads import Roads
from envs.names import unknown_name

if TYPE_CHECKING:
    from envs.carla.standin.scenery import Scenery

TOWN_FILES = Path(__file__).parent / "towns_xodr"


def town_names() -> list[str]:
    """Names of the towns that come with the server."""
    return sorted(path.stem for path in TOWN_FILES.glob("*.xodr"))


class Town:
    """A map: roads, where to spawn.

    Args:
        name: As the client sees it after "Carla/Maps/".
        xodr: OpenDRIVE as text.
    """

    def __init__(self, name: str, xodr: str) -> None:
        self.name, self.xodr = name, xodr
        self.roads = Roads(name, xodr)
        self.lights = find_lights(self.roads)

    @cached_property
    def spawn_points(self) -> list[Pose]:
        """Recommended poses of vehicles."""
        return self.roads.spawn_points()

    def scenery(self) -> Scenery:
        """What rays meet; painted when first asked for."""
        return self._scenery

    @cached_property
    def _scenery(self) -> Scenery:
        from envs.carla.standin.scenery import Scenery  # it knows worlds, which know towns

        return Scenery(self)

    @cached_property
    def is_flat(self) -> bool:
        """Whether all lanes have the height 0."""
        return bool((abs(self.roads.point[:, 2]) < 1e-3).all())


def load_town(name: str) -> Town:
    """A town by name, with or without the path that CARLA puts before it.

    Raises:
        ValueError: There is no such town.
    """
    short = name.rsplit("/", 1)[-1]
    if short not in town_names():
        raise ValueError(unknown_name("town", short, town_names()))
    return Town(short, (TOWN_FILES / f"{short}.xodr").read_text())


def read_town(path: Path) -> Town:
    """A town from a file of OpenDRIVE.

    Raises:
        ValueError: It is no OpenDRIVE with drivable lanes.
        OSError: It cannot be read.
    """
    return Town(path.stem, path.read_text(encoding="utf-8", errors="replace"))
