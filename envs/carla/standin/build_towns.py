"""Writes the towns of the server with scenariogeneration: python -m envs.carla.standin.build_towns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

from pyclothoids import Clothoid
from scenariogeneration import xodr

from envs.carla.standin.town_files import TOWN_FILES

_GEO = "+proj=tmerc +lat_0=42.0 +lon_0=2.0 +k=1 +x_0=0 +y_0=0 +ellps=WGS84 +units=m +no_defs"
_WIDTH = 3.5
_SIDEWALK = 2.0
LIGHT_TYPE = "1000001"
"""CARLA's type of a signal with lights."""

End = tuple[str, int]
"""A lane at the end of a road: contact point and lane id."""


class Plan:
    """A town being drawn: roads at fixed places, joined directly or by junctions of one-lane connecting roads.

    Args:
        name: Of the town.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.roads: dict[int, Any] = {}
        self.junctions: dict[int, Any] = {}
        self._lights: list[tuple[int, int]] = []
        self._limit: dict[int, int] = {}
        self._driving: dict[int, tuple[int, int]] = {}

    def road(
        self,
        number: int,
        start: tuple[float, float, float],
        shape: Sequence[Any],
        left: int,
        right: int,
        limit: int,
        sidewalk: bool = False,
    ) -> int:
        """Add a road of lanes that begins at (x, y, heading); returns its number."""
        self.roads[number] = self._road(number, start, shape, left, right, limit, sidewalk, -1)
        self._limit[number], self._driving[number] = limit, (left, right)
        return number

    def _road(
        self,
        number: int,
        start: tuple[float, float, float],
        shape: Sequence[Any],
        left: int,
        right: int,
        limit: int,
        sidewalk: bool,
        junction: int,
    ) -> Any:
        view = xodr.PlanView()
        view.set_start_point(*start)
        for geometry in shape:
            view.add_geometry(geometry)
        view.adjust_geometries()
        inside = junction >= 0
        centre = xodr.Lane(a=0)
        if not inside:
            centre.add_roadmark(_mark("solid" if left * right != 1 else "broken"))
        section = xodr.LaneSection(0, centre)
        for count, add in ((left, section.add_left_lane), (right, section.add_right_lane)):
            for lane in range(1, count + 1):
                driving = xodr.Lane(a=_WIDTH)
                if not inside:
                    driving.add_roadmark(_mark("solid" if lane == count else "broken"))
                add(driving)
            if sidewalk and count:
                add(xodr.Lane(lane_type=xodr.LaneType.sidewalk, a=_SIDEWALK))
        lanes = xodr.Lanes()
        lanes.add_lanesection(section)
        road = xodr.Road(number, view, lanes, road_type=junction)
        road.add_type(xodr.RoadType.town, 0, speed=limit, speed_unit="km/h")
        return road

    def follow(self, first: int, second: int) -> None:
        """The end of one road is the start of the next, with the same lanes."""
        self.roads[first].add_successor(xodr.ElementType.road, second, xodr.ContactPoint.start)
        self.roads[second].add_predecessor(xodr.ElementType.road, first, xodr.ContactPoint.end)
        for road, link in ((first, "successor"), (second, "predecessor")):
            for lane in _lanes(self.roads[road]):
                lane.add_link(link, lane.lane_id)

    def junction(self, number: int, arms: Sequence[tuple[int, str]]) -> None:
        """Add a junction at the given ends ("start" or "end") of roads."""
        self.junctions[number] = xodr.Junction(f"junction{number}", number)
        for road, end in arms:
            add = self.roads[road].add_successor if end == "end" else self.roads[road].add_predecessor
            add(xodr.ElementType.junction, number)

    def turn(self, number: int, junction: int, origin: tuple[int, str, int], target: tuple[int, str, int]) -> None:
        """Add a connecting road from a lane of one road to a lane of another: (road, end, lane)."""
        x0, y0, h0 = self._edge(*origin, leaving=True)
        x1, y1, h1 = self._edge(*target, leaving=False)
        curve = Clothoid.G1Hermite(x0, y0, h0, x1, y1, h1)
        first, last = curve.KappaStart, curve.KappaEnd
        if max(abs(first), abs(last)) < 1e-9:
            shape = [xodr.Line(curve.length)]
        elif abs(first - last) < 1e-9:  # CARLA's library divides by the change of the curvature
            shape = [xodr.Arc(first, length=curve.length)]
        else:
            shape = [xodr.Spiral(first, last, length=curve.length)]
        limit = min(self._limit[origin[0]], self._limit[target[0]])
        road = self._road(number, (x0, y0, h0), shape, 0, 1, limit, False, junction)
        contact = {"start": xodr.ContactPoint.start, "end": xodr.ContactPoint.end}
        road.add_predecessor(xodr.ElementType.road, origin[0], contact[origin[1]])
        road.add_successor(xodr.ElementType.road, target[0], contact[target[1]])
        (lane,) = _lanes(road)
        lane.add_link("predecessor", origin[2])
        lane.add_link("successor", target[2])
        connection = xodr.Connection(origin[0], number, xodr.ContactPoint.start)
        connection.add_lanelink(origin[2], -1)
        self.junctions[junction].add_connection(connection)
        self.roads[number] = road

    def light(self, junction: int, road: int, end: str) -> None:
        """Put a traffic light where a road enters a junction."""
        self._lights.append((junction, 9000 + len(self._lights)))
        length = self.roads[road].planview.get_total_length()
        outward = 1.0 if end == "end" else -1.0
        signal = xodr.Signal(
            s=length - 0.5 if end == "end" else 0.5,
            t=-outward * (2 * _WIDTH if len(_lanes(self.roads[road])) > 4 else 4.5),
            zOffset=0.0,
            orientation=xodr.Orientation.positive if end == "end" else xodr.Orientation.negative,
            dynamic=xodr.Dynamic.yes,
            country="OpenDRIVE",
            Type=LIGHT_TYPE,
            subtype="-1",
            id=str(self._lights[-1][1]),
            name="Signal_3Light_Post01",
            width=0.5,
            height=1.0,
        )
        # Without this, CARLA's library takes the lanes of the other direction.
        lanes = [lane.lane_id for lane in _lanes(self.roads[road]) if lane.lane_id * outward < 0]
        lanes = [lane for lane in lanes if abs(lane) <= self._driving[road][0 if lane > 0 else 1]]
        signal.add_validity(min(lanes), max(lanes))
        self.roads[road].add_signal(signal)

    def _edge(self, road: int, end: str, lane: int, leaving: bool) -> tuple[float, float, float]:
        """The left edge, as a driver sees it, of a lane at the end of a road, and the driver's direction."""
        view = self.roads[road].planview
        x, y, heading = view.get_start_point() if end == "start" else view.get_end_point()
        aside = -math.copysign((abs(lane) - 1) * _WIDTH, lane) * -1.0
        x, y = x - aside * math.sin(heading), y + aside * math.cos(heading)
        assert (lane < 0) == ((end == "end") == leaving), f"lane {lane} does not lead there at the {end} of road {road}"
        return x, y, heading + (0.0 if lane < 0 else math.pi)

    def text(self) -> str:
        """The OpenDRIVE; the same bytes every day."""
        town = xodr.OpenDrive(self.name, geo_reference=_GEO)
        for road in self.roads.values():
            town.add_road(road)
        for junction in self.junctions.values():
            town.add_junction(junction)
        element = town.get_element()
        for junction, signal in self._lights:
            controller = ElementTree.SubElement(element, "controller", id=str(signal), name=f"ctrl{signal}")
            controller.set("sequence", "0")
            ElementTree.SubElement(controller, "control", signalId=str(signal), type="0")
            owner = element.find(f"junction[@id='{junction}']")
            assert owner is not None
            ElementTree.SubElement(owner, "controller", id=str(signal), type="0", sequence="0")
        ElementTree.indent(element, " ")
        return re.sub(r' date="[^"]*"', "", ElementTree.tostring(element, encoding="unicode")) + "\n"


def oval() -> str:
    """Two straights of 200 m and two half circles, two lanes in each direction."""
    plan, radius = Plan("oval"), 45.0
    bend = math.pi * radius
    plan.road(0, (0, 0, 0), [xodr.Line(200)], 2, 2, 50)
    plan.road(1, (200, 0, 0), [xodr.Arc(1 / radius, length=bend)], 2, 2, 50)
    plan.road(2, (200, 2 * radius, math.pi), [xodr.Line(200)], 2, 2, 50)
    plan.road(3, (0, 2 * radius, math.pi), [xodr.Arc(1 / radius, length=bend)], 2, 2, 50)
    for number in range(4):
        plan.follow(number, (number + 1) % 4)
    return plan.text()


def grid() -> str:
    """Three by three crossings, 90 m apart, one lane in each direction, lights where three or more roads meet."""
    plan, size, apart, half = Plan("grid"), 3, 90.0, 12.0
    arms: dict[tuple[int, int], list[tuple[int, str]]] = {(i, j): [] for i in range(size) for j in range(size)}
    number = 0
    for i in range(size):
        for j in range(size):
            for di, dj, heading in ((1, 0, 0.0), (0, 1, math.pi / 2)):
                if i + di < size and j + dj < size:
                    start = (i * apart + di * half, j * apart + dj * half, heading)
                    plan.road(number, start, [xodr.Line(apart - 2 * half)], 1, 1, 40, sidewalk=True)
                    arms[i, j].append((number, "start"))
                    arms[i + di, j + dj].append((number, "end"))
                    number += 1
    connecting = 1000
    for junction, ends in enumerate(arms.values(), 100):
        plan.junction(junction, ends)
        for one in ends:
            for two in ends:
                if one != two:
                    into, out = (-1 if one[1] == "end" else 1), (-1 if two[1] == "start" else 1)
                    plan.turn(connecting, junction, (*one, into), (*two, out))
                    connecting += 1
            if len(ends) > 2:
                plan.light(junction, *one)
    return plan.text()


def roundabout() -> str:
    """Four roads that meet in a circle of one lane, driven counterclockwise; each road ends in a loop to turn round."""
    plan, radius, far = Plan("roundabout"), 24.0, 150.0
    opening = math.radians(25.0)  # half of the angle of each junction, seen from the centre
    for arm in range(4):
        angle = arm * math.pi / 2
        begin = angle + opening
        # The lane lies to the right of the line, so the line is the inner edge.
        inner = radius - _WIDTH / 2
        start = (inner * math.cos(begin), inner * math.sin(begin), begin + math.pi / 2)
        length = inner * (math.pi / 2 - 2 * opening)
        plan.road(arm, start, [xodr.Arc(1 / inner, length=length)], 0, 1, 30)
        near = radius + 16.0
        place = (near * math.cos(angle), near * math.sin(angle), angle)
        plan.road(10 + arm, place, [xodr.Line(far - near)], 1, 1, 50, sidewalk=True)
        for half in (0, 1):
            plan.road(20 + 10 * half + arm, *_half_loop(far, angle, half), 0, 1, 30)
        plan.follow(20 + arm, 30 + arm)
    for arm in range(4):
        before = (arm - 1) % 4
        junction = 100 + arm
        plan.junction(junction, [(before, "end"), (arm, "start"), (10 + arm, "start")])
        plan.turn(1000 + 10 * arm, junction, (before, "end", -1), (arm, "start", -1))
        plan.turn(1001 + 10 * arm, junction, (before, "end", -1), (10 + arm, "start", -1))
        plan.turn(1002 + 10 * arm, junction, (10 + arm, "start", 1), (arm, "start", -1))
        junction = 200 + arm
        plan.junction(junction, [(10 + arm, "end"), (20 + arm, "start"), (30 + arm, "end")])
        plan.turn(1003 + 10 * arm, junction, (10 + arm, "end", -1), (20 + arm, "start", -1))
        plan.turn(1004 + 10 * arm, junction, (30 + arm, "end", -1), (10 + arm, "end", 1))
    return plan.text()


def _half_loop(far: float, angle: float, half: int) -> tuple[tuple[float, float, float], list[Any]]:
    """Start and shape of a quarter of the circle beyond the end of a road: out from its right or back to its left.

    CARLA's library does not tell the ends of a road apart that both lead into one junction, hence the two parts.
    """
    radius, beyond = 14.0, 20.0
    # In the frame of the road, along and to the left: a counterclockwise circle that begins on the right.
    x, y, heading = (far + beyond, -radius, 0.0) if half == 0 else (far + beyond + radius, 0.0, math.pi / 2)
    cos, sin = math.cos(angle), math.sin(angle)
    place = (x * cos - y * sin, x * sin + y * cos, angle + heading)
    return place, [xodr.Arc(1 / radius, length=math.pi / 2 * radius)]


def highway() -> str:
    """A ring of three lanes in one direction; a ramp leaves it and merges again over a lane that ends."""
    plan, radius, limit = Plan("highway"), 90.0, 90
    bend = math.pi * radius
    merge = 180.0
    # Bottom straight from left to right: exit, middle beside the ramp, merge, the lane that ends, then three lanes.
    plan.road(0, (0, 0, 0), [xodr.Line(120)], 0, 3, limit)
    plan.road(1, (150, 0, 0), [xodr.Line(150)], 0, 3, limit)
    plan.road(2, (330, 0, 0), [xodr.Line(merge)], 0, 4, limit)
    plan.road(3, (330 + merge + 20, 0, 0), [xodr.Line(100)], 0, 3, limit)
    end = 330 + merge + 120
    plan.road(4, (end, 0, 0), [xodr.Arc(1 / radius, length=bend)], 0, 3, limit)
    plan.road(5, (end, 2 * radius, math.pi), [xodr.Line(end)], 0, 3, limit)
    plan.road(6, (0, 2 * radius, math.pi), [xodr.Arc(1 / radius, length=bend)], 0, 3, limit)
    plan.road(7, (190, -3 * _WIDTH - 8, 0), [xodr.Line(70)], 0, 1, 60)
    for first, second in ((3, 4), (4, 5), (5, 6), (6, 0)):
        plan.follow(first, second)
    plan.junction(100, [(0, "end"), (1, "start"), (7, "start")])
    plan.junction(101, [(1, "end"), (7, "end"), (2, "start")])
    plan.junction(102, [(2, "end"), (3, "start")])
    for lane in (-1, -2, -3):
        plan.turn(1000 - lane, 100, (0, "end", lane), (1, "start", lane))
        plan.turn(1010 - lane, 101, (1, "end", lane), (2, "start", lane))
        plan.turn(1020 - lane, 102, (2, "end", lane), (3, "start", lane))
    plan.turn(1004, 100, (0, "end", -3), (7, "start", -1))
    plan.turn(1014, 101, (7, "end", -1), (2, "start", -4))
    return plan.text()


def _lanes(road: Any) -> list[Any]:
    """The lanes of a road's section, without the centre."""
    section = road.lanes.lanesections[0]
    return [*section.leftlanes, *section.rightlanes]


def _mark(kind: str) -> Any:
    if kind == "solid":
        return xodr.RoadMark(xodr.RoadMarkType.solid, 0.2)
    return xodr.RoadMark(xodr.RoadMarkType.broken, 0.2, length=3, space=6)


TOWNS: dict[str, Callable[[], str]] = {"oval": oval, "grid": grid, "roundabout": roundabout, "highway": highway}


def main() -> None:
    """Write every town."""
    TOWN_FILES.mkdir(exist_ok=True)
    for name, build in TOWNS.items():
        (TOWN_FILES / f"{name}.xodr").write_text(build())


if __name__ == "__main__":
    main()
