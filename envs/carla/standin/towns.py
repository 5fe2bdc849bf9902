"""The towns that come with the server, and those of the user's OpenDRIVE."""

from __future__ import annotations

import subprocess
import sys
from functools import cached_property
from pathlib import Path

from envs.carla.pose import Pose
from envs.carla.roads import Roads, check_xodr
from envs.carla.standin.lights import find_lights
from envs.carla.standin.town_files import TOWN_FILES, town_names
from envs.names import unknown_name

_TRY_SECONDS = 120.0


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


def try_town(name: str, xodr: str) -> Town:
    """A town of the user's, tried in a process of its own: on some files CARLA's library ends the process.

    Raises:
        ValueError: It is no OpenDRIVE with drivable lanes.
    """
    check_xodr(name, xodr)
    program = [sys.executable, "-c", "import carla, sys; carla.Map('try', sys.stdin.read()).generate_waypoints(1.0)"]
    tried = subprocess.run(program, input=xodr, text=True, capture_output=True, timeout=_TRY_SECONDS, check=False)
    if tried.returncode < 0:
        raise ValueError(f"{name}: CARLA's library breaks down on this OpenDRIVE (signal {-tried.returncode})")
    return Town(name, xodr)


def read_town(path: Path) -> Town:
    """A town from a file of OpenDRIVE.

    Raises:
        ValueError: It is no OpenDRIVE with drivable lanes.
        OSError: It cannot be read.
    """
    return try_town(path.stem, path.read_text(encoding="utf-8", errors="replace"))
