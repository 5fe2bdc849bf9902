"""Actions, rewards, metrics and options: numbers without a server."""

from __future__ import annotations

import numpy as np
import pytest

from envs.carla.actions import DISCRETE, Pedals, pedals
from envs.carla.config import CarlaConfig
from envs.carla.metrics import EpisodeFigures, driving_score_v2_0, driving_score_v2_1
from envs.carla.rewards import PRESETS, StepFacts, terms, weights
from envs.carla.tasks import TASKS
from envs.registry import env_spec


def test_actions_stand_for_pedals_and_steer_right_for_plus() -> None:
    assert pedals("accelerate_steer", np.array([0.5, 0.25])) == Pedals(0.5, 0.25, 0.0)
    assert pedals("accelerate_steer", np.array([-0.5, -1.0])) == Pedals(0.0, -1.0, 0.5)
    assert pedals("steer_throttle_brake", np.array([0.1, 0.75, 0.5])) == Pedals(0.75, 0.1, 0.5)
    assert len(DISCRETE) == 15
    assert pedals("discrete", 0) == Pedals(0.0, -0.6, 2.0 / 3.0)
    assert pedals("discrete", 14) == Pedals(2.0 / 3.0, 0.6, 0.0)


@pytest.mark.parametrize("bad", [[1.0], [float("nan"), 0.0], [[0.0, 0.0]]])
def test_an_action_that_is_none_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="action must be 2 finite numbers"):
        pedals("accelerate_steer", np.array(bad))
    with pytest.raises(ValueError, match="action must be an id in"):
        pedals("discrete", 15)


def test_driving_scores_are_those_of_the_leaderboards() -> None:
    infractions = {"walker": 0, "vehicle": 1, "static": 1, "red_light": 2}
    assert driving_score_v2_0(0.8, infractions) == pytest.approx(80.0 * 0.6 * 0.65 * 0.7**2)
    assert driving_score_v2_1(0.8, infractions) == pytest.approx(80.0 / (1 + 0.7 + 0.6 + 2 * 0.4))
    assert driving_score_v2_0(1.0, {}, outside=0.25) == driving_score_v2_1(1.0, {}, outside=0.25) == 75.0


def test_success_needs_the_end_of_the_route_without_infractions() -> None:
    figures = EpisodeFigures(completion=1.0, arrived=True)
    assert figures.as_info()["is_success"] == 1.0
    figures.collisions["vehicle"] = 1
    assert figures.as_info()["is_success"] == 0.0
    assert figures.as_info()["driving_score_v2_0"] == pytest.approx(60.0)


def test_the_terms_of_the_reward_are_named_and_weighted() -> None:
    facts = StepFacts(advance=0.8, route_length=200.0, speed=4.0, wanted_speed=8.0, lateral=-0.875, impact_speed=5.0)
    parts = terms(facts, {"progress": 0.5, "completion": 1.0, "speed": 1.0, "lane": 2.0, "collision": 10.0})
    assert parts == pytest.approx({"progress": 0.4, "completion": 0.4, "speed": 0.5, "lane": -1.0, "collision": -15.0})


def test_route_completion_pays_a_hundred_for_the_whole_route_and_nothing_else() -> None:
    chosen = weights("route_completion", {})
    assert chosen == {"completion": 1.0}
    total = sum(sum(terms(StepFacts(advance=2.0, route_length=50.0, lateral=1.0), chosen).values()) for _ in range(25))
    assert total == pytest.approx(100.0)
    assert weights("shaped", {"lane": 0.0, "completion": 2.0}) == {
        **{name: weight for name, weight in PRESETS["shaped"].items() if name != "lane"},
        "completion": 2.0,
    }


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"reward": {"progres": 1.0}}, "unknown reward term 'progres' .did you mean 'progress'"),
        ({"observation": []}, "observation must name at least one part"),
        ({"observation": ["state", "state"]}, "names a part twice"),
        ({"observation": ["stat"]}, "did you mean 'state'"),
        ({"birdeye_behind": 40.0}, "birdeye_behind must be less than birdeye_metres"),
        ({"backend": "program"}, "needs the option program"),
        ({"backend": "standin", "host": "a"}, "backend=standin takes no host"),
        ({"tick_seconds": 0.2}, "tick_seconds must be at most 0.1"),
        ({"hots": "a"}, "unknown option 'hots' .did you mean 'host'"),
    ],
)
def test_a_bad_option_is_one_line(options: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        env_spec("carla_lane", **options)


def test_the_backend_follows_from_what_is_named() -> None:
    assert CarlaConfig().server_kind == "standin"
    assert CarlaConfig(port=2000).server_kind == "server"
    assert CarlaConfig(program="CarlaUE4.sh").server_kind == "program"


def test_every_task_has_a_spec_without_a_simulator() -> None:
    for name in TASKS:
        spec = env_spec(name, observation=["birdeye", "state", "camera", "lidar", "collision"])
        assert spec.observation["birdeye"].shape == (64, 64, 3)
        assert spec.observation["state"].shape == (34,)
        assert spec.metrics["is_success"] == "last"
        assert spec.metrics["reward_progress"] == "sum"
    assert env_spec("carla_lane", birdeye_format="masks").observation["birdeye"].shape == (64, 64, 8)
    assert env_spec("carla_lane", action="discrete").action.num_values == 15
