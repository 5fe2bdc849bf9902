"""The reward: a weighted sum of named terms.

Two presets. "shaped" leads a beginner: progress, the wanted speed, staying in the middle, steering calmly.
"route_completion" pays the share of the route alone, and infractions end the episode: terms that shape fail where
batches are large, as the policy settles for standing still or for crawling along the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from envs.names import unknown_name

RewardPreset = Literal["shaped", "route_completion"]

TERMS = {
    "progress": "metres along the route, not counted twice",
    "completion": "percent of the route, not counted twice",
    "speed": "1 at the wanted speed, less by the difference's share of it, at least -1",
    "lane": "minus the distance from the middle of the route, in half widths of a lane, at most 2",
    "heading": "minus the angle to the route, rad",
    "steer": "minus the change of the steering",
    "collision": "minus 1 and a tenth of the speed (m/s), at a collision",
    "off_route": "minus 1 when the route is left",
    "red_light": "minus 1 when a red light is passed",
    "stuck": "minus 1 when the car is stuck",
    "destination": "1 at the end of the route",
}
"""Name -> what it is worth at weight 1."""

PRESETS: dict[str, dict[str, float]] = {
    "shaped": {
        "progress": 0.1,
        "speed": 0.1,
        "lane": 0.05,
        "heading": 0.05,
        "steer": 0.05,
        "collision": 10.0,
        "off_route": 10.0,
        "red_light": 10.0,
        "stuck": 5.0,
        "destination": 10.0,
    },
    "route_completion": {"completion": 1.0},
}


def weights(preset: RewardPreset, changes: Mapping[str, float]) -> dict[str, float]:
    """Name of a term -> weight, without those that are 0.

    Raises:
        ValueError: For an unknown term (with the nearest one).
    """
    for name in changes:
        if name not in TERMS:
            raise ValueError(unknown_name("reward term", name, TERMS))
    merged = {**PRESETS[preset], **changes}
    return {name: weight for name, weight in merged.items() if weight != 0.0}


@dataclass(frozen=True)
class StepFacts:
    """What happened in a step, as far as the reward asks."""

    advance: float = 0.0  # metres along the route that are new
    route_length: float = 1.0  # metres
    speed: float = 0.0  # along the route, m/s
    wanted_speed: float = 1.0  # m/s
    lateral: float = 0.0  # from the middle of the route, m
    half_width: float = 1.75  # of a lane, m
    heading: float = 0.0  # to the route, rad
    steer_change: float = 0.0
    impact_speed: float | None = None  # m/s before a collision, None without one
    off_route: bool = False
    red_light: bool = False
    stuck: bool = False
    arrived: bool = False


def terms(facts: StepFacts, chosen: Mapping[str, float]) -> dict[str, float]:
    """Name of a term -> its part of the reward, weight included; the reward is their sum.

    Args:
        facts: What happened.
        chosen: Weights, see `weights`.
    """
    wanted = max(facts.wanted_speed, 1.0)
    values = {
        "progress": facts.advance,
        "completion": 100.0 * facts.advance / facts.route_length,
        "speed": max(-1.0, 1.0 - abs(facts.speed - facts.wanted_speed) / wanted),
        "lane": -min(abs(facts.lateral) / facts.half_width, 2.0),
        "heading": -abs(facts.heading),
        "steer": -abs(facts.steer_change),
        "collision": 0.0 if facts.impact_speed is None else -1.0 - 0.1 * facts.impact_speed,
        "off_route": -float(facts.off_route),
        "red_light": -float(facts.red_light),
        "stuck": -float(facts.stuck),
        "destination": float(facts.arrived),
    }
    return {name: weight * values[name] for name, weight in chosen.items()}
