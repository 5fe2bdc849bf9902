"""What an episode is judged by: the figures of CARLA's leaderboards, as far as the tasks have what they count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from envs.specs import MetricKind

COLLISIONS = ("vehicle", "walker", "static")
TTC_MOST = 10.0
"""Times to collision are not told beyond this, s."""

_KINDS: dict[str, MetricKind] = {
    "is_success": "last",
    "route_completion": "last",
    **{f"collision_{kind}": "last" for kind in COLLISIONS},
    "off_route": "last",
    "red_light": "last",
    "stuck": "last",
    "outside_lane": "last",
    "distance": "last",
    "driving_score_v2_0": "last",
    "driving_score_v2_1": "last",
    "speed": "mean",
    "ttc_min": "last",
    "server_restarts": "sum",
}

_FACTORS_V2_0 = {"walker": 0.50, "vehicle": 0.60, "static": 0.65, "red_light": 0.70}
_COEFFICIENTS_V2_1 = {"walker": 1.0, "vehicle": 0.7, "static": 0.6, "red_light": 0.4}


def metric_kinds(reward_terms: Iterable[str]) -> dict[str, MetricKind]:
    """Metrics of an environment with these terms of the reward, and how they add up over an episode."""
    return {**_KINDS, **{f"reward_{name}": "sum" for name in reward_terms}}


def driving_score_v2_0(completion: float, infractions: dict[str, int], outside: float = 0.0) -> float:
    """Driving score of leaderboard 2.0: completion times a factor for every infraction.

    Args:
        completion: Share of the route, [0, 1].
        infractions: Kind ("walker", "vehicle", "static", "red_light") -> count.
        outside: Share of the driven way outside the route's lanes, [0, 1].

    Returns:
        In [0, 100].
    """
    penalty = 1.0 - outside
    for kind, count in infractions.items():
        penalty *= _FACTORS_V2_0[kind] ** count
    return 100.0 * completion * penalty


def driving_score_v2_1(completion: float, infractions: dict[str, int], outside: float = 0.0) -> float:
    """Driving score of leaderboard 2.1: completion over 1 and a coefficient for every infraction; as the other one."""
    penalty = 1.0 + sum(_COEFFICIENTS_V2_1[kind] * count for kind, count in infractions.items())
    return 100.0 * completion * (1.0 - outside) / penalty


@dataclass
class EpisodeFigures:
    """What has happened in an episode so far."""

    collisions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLLISIONS, 0))
    red_lights: int = 0
    completion: float = 0.0  # [0, 1]
    off_route: bool = False
    stuck: bool = False
    arrived: bool = False
    driven: float = 0.0  # m
    outside: float = 0.0  # of that, outside the route's lanes, m
    ttc_min: float = TTC_MOST  # s

    @property
    def collided(self) -> bool:
        return any(self.collisions.values())

    def as_info(self) -> dict[str, float]:
        """The metrics that add up by their last value."""
        infractions = {**self.collisions, "red_light": self.red_lights}
        outside = self.outside / self.driven if self.driven > 0 else 0.0
        return {
            "is_success": float(self.arrived and not self.collided and not self.red_lights),
            "route_completion": self.completion,
            **{f"collision_{kind}": float(count) for kind, count in self.collisions.items()},
            "off_route": float(self.off_route),
            "red_light": float(self.red_lights),
            "stuck": float(self.stuck),
            "outside_lane": outside,
            "distance": self.driven,
            "driving_score_v2_0": driving_score_v2_0(self.completion, infractions, outside),
            "driving_score_v2_1": driving_score_v2_1(self.completion, infractions, outside),
            "ttc_min": self.ttc_min,
        }
