"""Named suites of fixed routes, seeds, weather and traffic on which driving policies are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envs.names import unknown_name


@dataclass(frozen=True)
class Condition:
    """Equal episodes but for route and seed.

    Args:
        name: Short.
        env: Task, a key of `envs.carla.tasks.TASKS`.
        options: Beside those of the run that is judged.
    """

    name: str
    env: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Conditions, each with the same number of routes and seeds.

    Args:
        text: In a line.
        routes: Fixed ones of each condition.
        seeds: Of each route: traffic.
        conditions: What differs.
    """

    text: str
    routes: int
    seeds: int
    conditions: tuple[Condition, ...]

    def env_seeds(self, seed: int) -> list[int]:
        """Seeds of the episodes of a condition; each gives its route and, beyond that, all else that is random.

        Args:
            seed: Of the suite.
        """
        first = seed * self.seeds
        return [(first + number) * self.routes + route for route in range(self.routes) for number in range(self.seeds)]


def _traffic(env: str, *counts: int) -> tuple[Condition, ...]:
    return tuple(
        Condition(f"{env.removeprefix('carla_')}, {count} vehicles", env, {"vehicles": count}) for count in counts
    )


def _weathers(name: str, town: str, vehicles: int, *weathers: str) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            f"{town} {name} {weather}", "carla_navigation", {"town": town, "vehicles": vehicles, "weather": weather}
        )
        for weather in weathers
    )


_NOCRASH = ("ClearNoon", "WetNoon", "HardRainNoon", "ClearSunset", "WetSunset", "SoftRainSunset")

SUITES = {
    "basics": Suite(
        "every task by itself, with its usual traffic",
        5,
        2,
        tuple(
            Condition(env.removeprefix("carla_"), env)
            for env in (
                *("carla_lane", "carla_turn_right", "carla_turn_left", "carla_roundabout", "carla_merge"),
                *("carla_traffic", "carla_follow", "carla_overtake", "carla_lights", "carla_navigation"),
            )
        ),
    ),
    "traffic": Suite(
        "empty, regular and dense traffic",
        5,
        2,
        _traffic("carla_traffic", 0, 20, 40) + _traffic("carla_navigation", 0, 12, 30),
    ),
    "nocrash_style": Suite(
        "towns, numbers of vehicles and weathers of NoCrash, on routes of ours and without walkers: a CARLA server",
        25,
        1,
        sum(
            (
                _weathers(name, town, vehicles, *_NOCRASH)
                for town, counts in (("Town01", (0, 20, 100)), ("Town02", (0, 15, 70)))
                for name, vehicles in zip(("empty", "regular", "dense"), counts, strict=True)
            ),
            (),
        ),
    ),
    "longest6_style": Suite(
        "six long routes in each of Town01 to Town06, dense traffic, as longest6, on routes of ours: a CARLA server",
        6,
        1,
        tuple(
            Condition(
                town,
                "carla_navigation",
                {"town": town, "vehicles": 120, "route_metres": 1500.0, "max_episode_steps": 6000},
            )
            for town in ("Town01", "Town02", "Town03", "Town04", "Town05", "Town06")
        ),
    ),
}
"""Name -> suite. Those in the style of others are not theirs: routes differ, and there are no walkers."""


def suite(name: str) -> Suite:
    """The suite `name`.

    Raises:
        ValueError: For an unknown name (with the nearest one).
    """
    if name not in SUITES:
        raise ValueError(unknown_name("suite", name, SUITES))
    return SUITES[name]
