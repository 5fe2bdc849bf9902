"""The environment on the stand-in server, which the tests of this module share: integration results, no CARLA results.

With CARLA_HOST (and CARLA_PORT) set they run on that server instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("carla")

from envs.carla.driver import expert_action
from envs.carla.env import CarlaEnv
from envs.registry import make_bare_env

pytestmark = pytest.mark.integration

REAL: dict[str, Any] = (
    {"host": os.environ["CARLA_HOST"], "port": int(os.environ.get("CARLA_PORT", "2000"))}
    if "CARLA_HOST" in os.environ
    else {}
)
COAST = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def env() -> Iterator[CarlaEnv]:
    made = make_bare_env("carla_lane", vehicles=4, route_metres=60.0, timeout_seconds=10.0, **REAL)
    assert isinstance(made, CarlaEnv)
    yield made
    made.close()


def test_it_drives_a_route_to_its_end(env: CarlaEnv) -> None:
    observation, info = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert info["route_completion"] == 0.0
    total, parts, terminated = 0.0, 0.0, False
    for _ in range(300):
        observation, reward, terminated, truncated, info = env.step(expert_action(env.episode))
        total += reward
        parts += sum(value for name, value in info.items() if name.startswith("reward_"))
        if terminated or truncated:
            break
    assert terminated
    assert info["is_success"] == 1.0
    assert info["route_completion"] == 1.0
    assert info["driving_score_v2_0"] == info["driving_score_v2_1"] == 100.0
    assert total == pytest.approx(parts)
    assert env.observation_space.contains(observation)
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(COAST)


def test_equal_seeds_and_actions_give_equal_steps(env: CarlaEnv) -> None:
    if REAL:
        pytest.skip("traffic of a real server is not repeatable")
    runs = []
    for _ in range(2):
        first, _ = env.reset(seed=11)
        steps = [env.step(np.array([0.5, 0.05], np.float32)) for _ in range(15)]
        runs.append([first["state"], *(step[0]["state"] for step in steps)])
        assert np.abs(runs[0][0] - runs[0][-1]).max() > 0.1
    for one, two in zip(*runs, strict=True):
        assert np.array_equal(one, two)


def test_leaving_the_route_terminates(env: CarlaEnv) -> None:
    env.reset(seed=5)
    for _ in range(100):
        _, _, terminated, _, info = env.step(np.array([0.7, 0.7], np.float32))
        if terminated:
            break
    assert info["off_route"] or info["collision_vehicle"]
    assert info["is_success"] == 0.0
    assert info["reward_off_route"] < 0 or info["reward_collision"] < 0


def test_standing_still_without_cause_terminates_as_stuck(env: CarlaEnv) -> None:
    env.reset(seed=6, options={"vehicles": 0})
    steps = 0
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(np.array([-1.0, 0.0], np.float32))
        steps += 1
    assert info["stuck"] == 1.0
    assert steps == 100  # stuck_seconds in steps of a tenth of a second


def test_reset_options_choose_the_route_and_refuse_what_they_are_not(env: CarlaEnv) -> None:
    routes = []
    for seed in (1, 2):
        env.reset(seed=seed, options={"route_seed": 7, "vehicles": 0})
        routes.append(env.episode.route.points)
    assert np.array_equal(*routes)
    with pytest.raises(ValueError, match=r"unknown reset option 'vehicels' .did you mean 'vehicles'"):
        env.reset(options={"vehicels": 1})
    with pytest.raises(ValueError, match="unknown weather 'Wet'"):
        env.reset(options={"weather": "Wet"})


def test_it_draws_its_surroundings(env: CarlaEnv) -> None:
    env.reset(seed=1)
    picture = env.render()
    assert picture.shape == (256, 256, 3)
    assert (picture == 255).all(axis=2).any()


@pytest.mark.skipif(bool(REAL), reason="the server is another's")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hung"])
def test_a_lost_server_is_replaced_and_the_episode_truncated(env: CarlaEnv, how: signal.Signals) -> None:
    env.reset(seed=4)
    env.step(COAST)
    server = env._server._process
    assert server is not None
    env._server.client.set_timeout(3.0)  # the new server, too, answers within it, on a busy machine
    env.config.__dict__["timeout_seconds"] = 3.0
    for process in server.processes():
        os.kill(process, how)
    observation, reward, terminated, truncated, info = env.step(COAST)
    env.config.__dict__["timeout_seconds"] = 10.0
    assert (terminated, truncated, reward) == (False, True, 0.0)
    assert info["server_restarts"] == 1.0
    assert env.observation_space.contains(observation)
    assert not any(os.path.exists(f"/proc/{process}") for process in server.processes())
    env.reset(seed=4)
    assert env.step(COAST)[4]["server_restarts"] == 0.0


@pytest.mark.skipif(bool(REAL), reason="the server is another's")
def test_a_sensor_that_never_delivers_is_one_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.carla.sensors import Frames

    monkeypatch.setattr(Frames, "put", lambda self, data: None)
    monkeypatch.setattr("envs.carla.env._RESET_TRIES", 1)
    made: Any = make_bare_env("carla_lane", observation=["camera"], frame_seconds=0.05, vehicles=0)
    process = made._server._process
    with pytest.raises(RuntimeError, match="no episode begins"):
        made.reset(seed=0)
    made.close()
    assert not process.processes()
