"""Writes the towns of the server with scenariogeneration: python -m envs.carla.standin.build_towns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

from scenariogeneration import xodr

from envs.carla.standin.towns import TOWN_FILES

_GEO = "+proj=tmerc +lat_0=42.0 +lon_0=2.0 +k=1 +x_0=0 +y_0=0 +ellps=WGS84 +units=m +no_defs"
LANE_WIDTH = 3.5


def main() -> None:
    """Write every town."""
    TOWN_FILES.mkdir(exist_ok=True)
    for name, build in TOWNS.items():
        (TOWN_FILES / f"{name}.xodr").write_text(build())


def oval() -> str:
    """Two straights of 200 m and two half circles, two lanes in each direction."""
    bend = math.pi * 45.0
    shapes = ([xodr.Line(200)], [xodr.Arc(1 / 45.0, length=bend)]) * 2
    roads = [_road(number, shape, 2, 2, 50) for number, shape in enumerate(shapes)]
    for number, road in enumerate(roads):
        road.add_successor(xodr.ElementType.road, (number + 1) % 4, xodr.ContactPoint.start)
        road.add_predecessor(xodr.ElementType.road, (number - 1) % 4, xodr.ContactPoint.end)
    return _write("oval", roads)


def _road(number: int, shape: Sequence[Any], left: int, right: int, limit: int) -> Any:
    road = xodr.create_road(list(shape), number, left_lanes=left, right_lanes=right, lane_width=LANE_WIDTH)
    road.add_type(xodr.RoadType.town, 0, speed=limit, speed_unit="km/h")
    return road


def _write(name: str, roads: Sequence[Any], junctions: Sequence[Any] = ()) -> str:
    town = xodr.OpenDrive(name, geo_reference=_GEO)
    for road in roads:
        town.add_road(road)
    for junction in junctions:
        town.add_junction_creator(junction)
    town.adjust_roads_and_lanes()
    element = town.get_element()
    ElementTree.indent(element, " ")
    text = ElementTree.tostring(element, encoding="unicode")
    return re.sub(r' date="[^"]*"', "", text) + "\n"  # the same bytes every day


TOWNS: dict[str, Callable[[], str]] = {"oval": oval}

if __name__ == "__main__":
    main()
