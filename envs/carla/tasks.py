"""The driving tasks, one record each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RouteKind = Literal["lane", "right", "left", "roundabout", "merge", "straight", "lights", "navigation"]
LeaderKind = Literal["follow", "slow"]


@dataclass(frozen=True)
class Task:
    """What is to be driven.

    Args:
        text: In a line.
        route: How a route is drawn, see `envs.carla.route_choice`.
        metres: Length that routes should have, about.
        town: Of the stand-in.
        carla_town: Of a CARLA server; None takes whichever it has.
        vehicles: Other vehicles.
        leader: A car ahead on the route: one to follow, or one to overtake.
    """

    text: str
    route: RouteKind
    metres: float
    town: str
    carla_town: str | None = None
    vehicles: int = 0
    leader: LeaderKind | None = None


TASKS = {
    "carla_lane": Task("keep the lane", "lane", 250.0, "oval", "Town04"),
    "carla_turn_right": Task("turn right at a crossing", "right", 60.0, "grid", "Town03"),
    "carla_turn_left": Task("turn left at a crossing", "left", 60.0, "grid", "Town03"),
    "carla_roundabout": Task("drive through a roundabout", "roundabout", 150.0, "roundabout", "Town03", 10),
    "carla_merge": Task("merge onto a highway", "merge", 250.0, "highway", "Town04", 12),
    "carla_traffic": Task("several lanes with traffic", "straight", 400.0, "highway", "Town04", 20),
    "carla_follow": Task("follow a car", "lane", 250.0, "oval", "Town04", 0, "follow"),
    "carla_overtake": Task("overtake a slow car", "straight", 300.0, "highway", "Town04", 0, "slow"),
    "carla_lights": Task("pass crossings with traffic lights", "lights", 150.0, "grid", "Town03", 8),
    "carla_navigation": Task("drive from one place to another", "navigation", 300.0, "grid", "Town03", 12),
}
"""Name of the environment -> task."""
