"""Traffic lights: where they stand, which lanes they close, and their cycle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from envs.carla.pose import Pose
from envs.carla.roads import Roads
from envs.carla.standin.layouts import GREEN, RED, YELLOW

LIGHT_TYPE = "1000001"
"""CARLA's type of a signal with lights."""
_ZONE = 12
"""Points of a lane before the line, about a metre apart, on which a vehicle counts as at the light."""
_LINE = 3
"""Points of a lane from its end back to the stop line."""
_DURATIONS = {GREEN: 10.0, YELLOW: 3.0, RED: 2.0}
"""Seconds of a new light: all are red for the last ones before the next group turns green."""


@dataclass(frozen=True)
class Light:
    """One traffic light.

    Args:
        signal: Id in the OpenDRIVE.
        pose: Where it stands.
        line: Middle of the stop line: x, y, z, and direction of travel in degrees.
        junction: That it guards, -1 where none is known.
        group: Those of one number are green together.
        half_width: Of the stop line, metres.
    """

    signal: str
    pose: Pose
    line: tuple[float, float, float, float]
    junction: int
    group: int
    half_width: float


@dataclass(frozen=True)
class Lights:
    """All lights of a town.

    Args:
        lights: The lights.
        gate: [lanes] the light that must be green to enter a lane, -1 for none.
        zone: [lane points] the light that a vehicle there is at, -1 for none.
    """

    lights: tuple[Light, ...]
    gate: NDArray[np.int64]
    zone: NDArray[np.int64]


def find_lights(roads: Roads) -> Lights:
    """The lights of a road network."""
    gate = np.full(len(roads.lanes), -1, np.int64)
    zone = np.full(len(roads.point), -1, np.int64)
    controllers = _controllers(roads.xodr)
    by_signal: dict[str, list[object]] = {}
    for landmark in roads.map.get_all_landmarks_of_type(LIGHT_TYPE):
        by_signal.setdefault(landmark.id, []).append(landmark)
    lights: list[Light] = []
    for signal, landmarks in sorted(by_signal.items()):
        number = len(lights)
        lines, junction = [], -1
        for lane in sorted({lane for landmark in landmarks for lane in _lanes_of(roads, landmark)}):
            inside = roads.lanes[lane].junction >= 0
            guarded = (lane,) if inside else roads.lanes[lane].successors
            guarded = tuple(after for after in guarded if roads.lanes[after].junction >= 0)
            gate[list(guarded)] = number
            for after in guarded:
                junction = roads.lanes[after].junction
            approaches = [i for i, other in enumerate(roads.lanes) if lane in other.successors] if inside else [lane]
            for approach in approaches:
                end = int(roads.first[approach + 1])
                zone[max(end - _ZONE, int(roads.first[approach])) : end] = number
                last = roads.lanes[approach]
                at = max(len(last.points) - _LINE, 0)
                lines.append((*last.points[at], math.degrees(last.yaw[at]), float(last.width[at])))
        place = landmarks[0].transform  # type: ignore[attr-defined]
        x, y, z = place.location.x, place.location.y, place.location.z
        x, y, z, yaw, width = np.mean(lines, axis=0) if lines else (x, y, z, place.rotation.yaw, 3.5)
        # As with CARLA's lights, x is across the road: the client looks for lanes along it.
        pose = Pose(place.location.x, place.location.y, place.location.z, 0.0, float(yaw) + 90.0, 0.0)
        line = float(x), float(y), float(z), float(yaw)
        group = controllers.get(signal, 1_000_000 + number)
        lights.append(Light(signal, pose, line, junction, group, 0.5 * float(width) * max(len(lines), 1)))
    return Lights(tuple(lights), gate, zone)


def _controllers(xodr: str) -> dict[str, int]:
    """Number of the controller of each signal."""
    found = {}
    for number, controller in enumerate(ElementTree.fromstring(xodr).iterfind("controller")):
        for control in controller.iterfind("control"):
            found[control.get("signalId", "")] = number
    return found


def _lanes_of(roads: Roads, landmark: object) -> list[int]:
    """Indices of the lanes for which a landmark is valid."""
    valid = landmark.get_lane_validities()  # type: ignore[attr-defined]
    ids = {lane for low, high in valid for lane in range(min(low, high), max(low, high) + 1)}
    road, place = landmark.road_id, landmark.s  # type: ignore[attr-defined]
    found = []
    for lane in sorted(ids):
        point = roads.map.get_waypoint_xodr(road, lane, place)
        key = (road, point.section_id, lane) if point is not None else None
        if key in roads.index:
            found.append(roads.index[key])
    return found


class LightCycle:
    """The states of the lights in time: in each junction one group after the other is green.

    Args:
        lights: Of the town.
    """

    def __init__(self, lights: Lights) -> None:
        count = len(lights.lights)
        self.state = np.full(count, RED, np.int64)
        self.elapsed = np.zeros(count)
        self.frozen = False
        self.durations = {state: np.full(count, seconds) for state, seconds in _DURATIONS.items()}
        junctions: dict[int, dict[int, list[int]]] = {}
        for number, light in enumerate(lights.lights):
            junctions.setdefault(light.junction, {}).setdefault(light.group, []).append(number)
        self._cycles = [_Cycle([np.array(group) for group in groups.values()]) for groups in junctions.values()]
        self.reset()

    def reset(self) -> None:
        """Begin all cycles anew."""
        self.state[:] = RED
        self.elapsed[:] = 0.0
        for cycle in self._cycles:
            cycle.phase, cycle.stage = 0, GREEN
            self.state[cycle.groups[0]] = GREEN

    def reset_group(self, light: int) -> None:
        """Begin the cycle of a light's junction anew."""
        for cycle in self._cycles:
            if light in self.group(light) and any(light in group for group in cycle.groups):
                members = np.concatenate(cycle.groups)
                self.state[members], self.elapsed[members] = RED, 0.0
                cycle.phase, cycle.stage = 0, GREEN
                self.state[cycle.groups[0]] = GREEN

    def group(self, light: int) -> list[int]:
        """All lights of the junction of a light."""
        for cycle in self._cycles:
            members = np.concatenate(cycle.groups).tolist()
            if light in members:
                return [int(member) for member in members]
        return [light]

    def is_green(self) -> NDArray[np.uint8]:
        """[lights] whether each may be passed."""
        green: NDArray[np.uint8] = (self.state == GREEN).astype(np.uint8)
        return green

    def set(self, light: int, state: int) -> None:
        """Show a state; unless the lights are frozen, the cycle goes on from there.

        Green makes it the turn of the light's group: the others of its junction turn red.
        """
        self.state[light], self.elapsed[light] = state, 0.0
        for cycle in self._cycles:
            for phase, group in enumerate(cycle.groups):
                if light not in group or state not in _DURATIONS:
                    continue
                if state == GREEN and phase != cycle.phase:
                    self.state[np.concatenate(cycle.groups)] = RED
                    self.state[light], cycle.phase = GREEN, phase
                if phase == cycle.phase:
                    cycle.stage = state
                    self.elapsed[group] = 0.0

    def step(self, seconds: float) -> None:
        """Let time pass."""
        if self.frozen or not len(self.state):
            return
        self.elapsed += seconds
        for cycle in self._cycles:
            group = cycle.groups[cycle.phase]
            if self.elapsed[group[0]] < self.durations[cycle.stage][group[0]]:
                continue
            if cycle.stage == RED:  # the pause is over
                cycle.phase, cycle.stage = (cycle.phase + 1) % len(cycle.groups), GREEN
                group = cycle.groups[cycle.phase]
            else:
                cycle.stage = YELLOW if cycle.stage == GREEN else RED
            self.state[group], self.elapsed[group] = cycle.stage, 0.0


@dataclass
class _Cycle:
    """One junction: the group whose turn it is, and how far it is."""

    groups: list[NDArray[np.int64]]
    phase: int = 0
    stage: int = GREEN
