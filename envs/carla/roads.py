"""The roads of a town as CARLA's own library reads them from OpenDRIVE, in arrays for fast look-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.etree import ElementTree

import carla
import numpy as np
from numpy.typing import NDArray

import native
from envs.carla.pose import Pose

Floats = NDArray[np.float64]
SPACING = 1.0
"""Distance of the points of a lane, metres."""
_DEFAULT_LIMIT = 50.0 / 3.6


@dataclass(frozen=True)
class Lane:
    """One drivable lane of one section, in its driving direction.

    Args:
        key: Road, section and lane id of OpenDRIVE.
        points: [P, 3] metres along the middle.
        yaw: [P] radians, clockwise seen from above.
        width: [P] metres.
        junction: Number of the junction that it leads through, -1 outside.
        limit: Metres per second.
        successors: Indices of the lanes that it leads to.
        left, right: Indices of the lanes in the same direction beside it that may be changed to, -1 for none.
    """

    key: tuple[int, int, int]
    points: Floats
    yaw: Floats
    width: Floats
    junction: int
    limit: float
    successors: tuple[int, ...]
    left: int
    right: int

    @cached_property
    def distance(self) -> Floats:
        """[P] metres from the beginning."""
        steps = np.linalg.norm(np.diff(self.points, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length(self) -> float:
        """Metres."""
        return float(self.distance[-1])


class Roads:
    """Lanes, their connections and where vehicles may be spawned.

    Args:
        name: Of the town, for messages.
        xodr: OpenDRIVE as text.

    Raises:
        ValueError: The text is no OpenDRIVE with drivable lanes.
    """

    def __init__(self, name: str, xodr: str) -> None:
        check_xodr(name, xodr)
        try:
            self.map = carla.Map(name, xodr)
        except RuntimeError as error:
            raise ValueError(f"{name}: CARLA's library does not read this OpenDRIVE: {error}") from None
        self.name, self.xodr = name, xodr
        limits = _speed_limits(xodr)
        groups: dict[tuple[int, int, int], list[Any]] = {}
        for point in self.map.generate_waypoints(SPACING):
            groups.setdefault((point.road_id, point.section_id, point.lane_id), []).append(point)
        groups = {key: group for key, group in sorted(groups.items()) if len(group) > 1}
        if not groups:
            raise ValueError(f"{name}: this OpenDRIVE has no drivable lane")
        index = {key: number for number, key in enumerate(groups)}
        self.lanes = [_lane(key, group, index, limits) for key, group in groups.items()]
        self.index = index
        sizes = [len(lane.points) for lane in self.lanes]
        self.point = np.concatenate([lane.points for lane in self.lanes])
        self.point_lane = np.repeat(np.arange(len(sizes)), sizes)
        self.point_step = np.concatenate([np.arange(size) for size in sizes])
        self.yaw = np.concatenate([lane.yaw for lane in self.lanes])
        self.limit = np.array([lane.limit for lane in self.lanes])
        self.slope = np.concatenate([np.gradient(lane.points[:, 2], lane.distance) for lane in self.lanes])
        self.first = np.concatenate([[0], np.cumsum(sizes)])

    def traffic(self, gate: NDArray[np.int64]) -> native.Traffic:
        """A traffic without drivers.

        Args:
            gate: [lanes] the traffic light that must be green to enter a lane, -1 for none.
        """
        nexts = [lane.successors for lane in self.lanes]
        next_first = np.concatenate([[0], np.cumsum([len(after) for after in nexts])])
        return native.Traffic(
            np.column_stack([self.point[:, :2], self.yaw]),
            self.first,
            next_first,
            np.array([lane for after in nexts for lane in after], np.int64),
            np.array([lane.left for lane in self.lanes]),
            np.array([lane.right for lane in self.lanes]),
            np.array([lane.junction for lane in self.lanes]),
            self.limit,
            gate,
        )

    def geolocation(self, pose: Pose) -> tuple[float, float, float]:
        """Latitude and longitude in degrees, altitude in metres."""
        place = self.map.transform_to_geolocation(carla.Location(pose.x, pose.y, pose.z))
        return place.latitude, place.longitude, place.altitude

    def spawn_points(self) -> list[Pose]:
        """Places on the lanes outside junctions, 0.5 m above the road."""
        poses = []
        for lane in self.lanes:
            if lane.junction >= 0 or lane.length < 12.0:
                continue
            for along in np.arange(6.0, lane.length - 5.0, 20.0):
                step = int(np.searchsorted(lane.distance, along))
                x, y, z = lane.points[step]
                poses.append(Pose(float(x), float(y), float(z) + 0.5, 0.0, math.degrees(float(lane.yaw[step])), 0.0))
        return poses


def check_xodr(name: str, xodr: str) -> None:
    """Refuse with ValueError what is no OpenDRIVE, before CARLA's library sees it: that one may end the process."""
    try:
        root = ElementTree.fromstring(xodr)
    except ElementTree.ParseError as error:
        raise ValueError(f"{name}: this is no XML: {error}") from None
    if root.tag != "OpenDRIVE":
        raise ValueError(f"{name}: an OpenDRIVE file begins with <OpenDRIVE>, not <{root.tag}>")
    roads = root.findall("road")
    if not roads:
        raise ValueError(f"{name}: this OpenDRIVE has no road")
    for road in roads:
        where = f"{name}: road {road.get('id')}"
        for path in ("planView/geometry", "lanes/laneSection/center"):
            if road.find(path) is None:
                raise ValueError(f"{where} has no {path}")
        for element in [road, *road.iterfind("planView/geometry")]:
            try:
                length = float(element.get("length", ""))
            except ValueError:
                length = math.nan
            if not length >= 0.0 or not math.isfinite(length):
                raise ValueError(f"{where}: the length {element.get('length')!r} of its <{element.tag}> is no length")

    signals = {signal.get("id") for signal in root.iterfind("road/signals/signal")}
    for control in root.iterfind("controller/control"):
        if control.get("signalId") not in signals:
            raise ValueError(f"{name}: a controller names signal {control.get('signalId')!r}, which no road has")


def _speed_limits(xodr: str) -> dict[int, float]:
    """Metres per second by road."""
    factors = {"km/h": 1 / 3.6, "mph": 0.44704, "m/s": 1.0, None: 1.0}
    limits = {}
    for road in ElementTree.fromstring(xodr).iterfind("road"):
        speed = road.find("type/speed")
        try:
            limit = float(speed.get("max", "")) * factors[speed.get("unit")] if speed is not None else _DEFAULT_LIMIT
        except (ValueError, KeyError):
            limit = _DEFAULT_LIMIT
        limits[int(road.get("id", "0"))] = limit
    return limits


def _lane(
    key: tuple[int, int, int], points: list[Any], index: dict[tuple[int, int, int], int], limits: dict[int, float]
) -> Lane:
    points = sorted(points, key=lambda point: point.s, reverse=key[2] > 0)
    last = points[-1]
    ahead = {_key(point): None for point in last.next(2.5 * SPACING)}
    successors = tuple(index[name] for name in ahead if name != key and name in index)
    # The library begins to count at the lower end of the road: what is left at the other end is up to a spacing.
    begin = [point for point in points[0].previous_until_lane_start(0.2) if _key(point) == key]
    end = [point for point in last.next_until_lane_end(0.2) if _key(point) == key]
    points = begin[-1:] + points + end[-1:]
    places = np.array([_place(point.transform.location) for point in points])
    kept = np.concatenate([[True], np.linalg.norm(np.diff(places, axis=0), axis=1) > 0.05])
    points, places = [point for point, keep in zip(points, kept, strict=True) if keep], places[kept]
    middle = points[len(points) // 2]
    return Lane(
        key,
        places,
        np.unwrap(np.radians([point.transform.rotation.yaw for point in points])),
        np.array([point.lane_width for point in points]),
        last.junction_id if last.is_junction else -1,
        limits.get(key[0], _DEFAULT_LIMIT),
        successors,
        _beside(middle, middle.get_left_lane(), carla.LaneChange.Left, index),
        _beside(middle, middle.get_right_lane(), carla.LaneChange.Right, index),
    )


def _key(point: Any) -> tuple[int, int, int]:
    return point.road_id, point.section_id, point.lane_id


def _place(location: Any) -> tuple[float, float, float]:
    return location.x, location.y, location.z


def _beside(point: Any, other: Any, change: Any, index: dict[tuple[int, int, int], int]) -> int:
    if other is None or other.lane_id * point.lane_id < 0 or not int(point.lane_change) & int(change):
        return -1
    return index.get(_key(other), -1)
