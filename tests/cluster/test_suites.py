"""Suites of driving routes: what is driven, and the figures that come of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.records import Episode
from cluster.report.suite_page import suites
from cluster.suites import INFRACTIONS, SCORES, clopper_pearson, figures
from envs.carla.suites import SUITES, suite
from envs.registry import env_spec


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [
        (0, 10, (0.0, 0.308497)),  # 1 - 0.025 ** (1 / 10)
        (10, 10, (0.691503, 1.0)),
        (5, 10, (0.187086, 0.812914)),
        (95, 100, (0.887165, 0.983568)),
    ],
)
def test_intervals_are_exact(successes: int, trials: int, interval: tuple[float, float]) -> None:
    assert clopper_pearson(successes, trials) == pytest.approx(interval, abs=1e-6)


def episode(**changes: float) -> Episode:
    metrics = {**dict.fromkeys((*SCORES, *INFRACTIONS, "is_success"), 0.0), "distance": 500.0, **changes}
    return Episode(0.0, 10, 0, metrics)


def test_infractions_are_counted_and_told_by_the_kilometre() -> None:
    found = figures([episode(is_success=1.0, route_completion=1.0), episode(red_light=3.0, route_completion=0.5)], 0)
    assert found["success_rate"] == 0.5
    assert found["kilometres"] == 1.0
    assert found["infractions"]["red_light"] == {"count": 3, "per_km": 3.0, "episodes": 1}
    assert found["route_completion"]["mean"] == 0.75
    assert found["infractions"]["stuck"]["per_km"] == 0.0


def test_every_condition_is_an_environment_whose_arrays_are_those_of_the_others() -> None:
    for chosen in SUITES.values():
        for condition in chosen.conditions:
            spec = env_spec(condition.env, **condition.options, routes=chosen.routes)
            assert spec.observation == env_spec("carla_lane").observation
        assert len({condition.name for condition in chosen.conditions}) == len(chosen.conditions)


def test_seeds_give_each_route_as_often_and_differ_by_the_suite_s_seed() -> None:
    chosen = suite("basics")
    seeds = chosen.env_seeds(0)
    assert sorted(seed % chosen.routes for seed in seeds) == sorted(list(range(chosen.routes)) * chosen.seeds)
    assert not set(seeds) & set(chosen.env_seeds(1))
    with pytest.raises(ValueError, match=r"unknown suite 'basic' .did you mean 'basics'"):
        suite("basic")


def test_the_report_shows_scores_and_infractions(tmp_path: Path) -> None:
    found = figures([episode(is_success=1.0, collision_vehicle=1.0)], 0)
    summary = {"suite": "basics", "backend": "stand-in", "train_steps": 7, "all": found, "conditions": {"lane": found}}
    (tmp_path / "step7_basics_seed0.json").write_text(json.dumps(summary))
    page = suites(tmp_path)
    assert "basics, after 7 steps, on stand-in" in page
    assert "1 (2)" in page  # one collision in half a kilometre
    assert "collision vehicle" in page
    assert suites(tmp_path / "none") == ""
