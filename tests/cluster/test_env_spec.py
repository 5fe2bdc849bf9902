"""A run starts at most one simulator beyond those that work for it, whatever asks for the spec."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from actors.rollout import RolloutLoop
from cluster import build
from cluster.config import resolve
from cluster.evaluation import load_trained
from cluster.train import train
from envs import registry
from envs.contract import ContractError

NAME = "gym:tests.cluster.test_env_spec:Logged-v0"


class Logged(gym.Env[Any, Any]):
    """Notes in the file `log` that it was started."""

    def __init__(self, log: str, size: int = 2) -> None:
        with open(log, "a") as file:
            file.write("started\n")
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self.observation_space.sample() * 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self.observation_space.sample() * 0, 0.0, False, self._steps == 10, {}


gym.register("Logged-v0", entry_point="tests.cluster.test_env_spec:Logged")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_specs", {})


def started(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def options(log: Path, *more: str) -> list[str]:
    return [f"env.options.log={log}", "cluster.mode=local", "schedule.total_steps=600", "schedule.eval_every=0", *more]


def test_a_run_and_what_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    config = resolve("dreamer_v3", NAME, "debug", overrides=options(log))
    loops: list[RolloutLoop] = []

    def rollout_loop(*arguments: Any) -> RolloutLoop:
        loops.append(make_loop(*arguments))
        return loops[-1]

    make_loop = build.rollout_loop
    monkeypatch.setattr(build, "rollout_loop", rollout_loop)
    train(config, run)
    working = sum(loop.env.num_envs for loop in loops)
    assert started(log) == working + 1
    monkeypatch.setattr(registry, "_specs", {})  # as in another process
    train(None, run, resume=True, overrides=["schedule.total_steps=700"])
    assert started(log) == 2 * working + 1
    monkeypatch.setattr(registry, "_specs", {})
    load_trained(run)
    assert started(log) == 2 * working + 1


def test_a_configuration_takes_the_spec_to_other_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    config = resolve("dreamer_v3", NAME, "debug", overrides=options(log))
    spec = build.env_spec(config)
    build.check(config)
    code = (
        "import pickle, sys; from cluster import build; config = pickle.loads(sys.stdin.buffer.read());"
        "sys.stdout.buffer.write(pickle.dumps(build.env_spec(config))); build.policy(config)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(config), capture_output=True, check=True, timeout=120
    )
    assert pickle.loads(answer.stdout) == spec
    assert started(log) == 1


def test_a_simulator_that_has_changed_is_refused(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    registry.make_vector_env(NAME, 2, log=log).close()
    spec = registry.env_spec(NAME, log=log)
    assert started(Path(log)) == 2
    registry.remember_spec(NAME, {"log": log, "size": 3}, spec)
    with pytest.raises(ContractError, match=r"Logged-v0: 'state' is .*\(3,\).*, in this run it was .*\(2,\)"):
        registry.make_vector_env(NAME, 2, log=log, size=3)


def test_named_environments_need_no_simulator() -> None:
    code = (
        "import sys; from envs.registry import env_spec\n"
        "for name in ('nav3d', 'nav3d_image', 'nav3d_creature', 'car_racing', 'car_racing_discrete'): env_spec(name)\n"
        "assert not {'mujoco', 'Box2D', 'envpool', 'pygame'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=dict(os.environ))


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("nav3d", {}),
        ("nav3d", {"layout": "random", "action_repeat": 3}),
        ("nav3d_image", {"grey": True, "image_size": 32}),
        ("nav3d_creature", {}),
    ],
)
def test_they_say_what_their_simulators_say(name: str, chosen: dict[str, Any]) -> None:
    env = registry.make_env(name, **chosen)
    assert registry.env_spec(name, **chosen) == env.spec
    env.close()
