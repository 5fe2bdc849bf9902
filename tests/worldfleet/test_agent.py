"""`worldfleet.load`: what an agent takes and gives, for every algorithm, and the example of docs/api.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import worldfleet
from cluster import build
from cluster.config import preset_names, resolve
from cluster.run_dir import RunDir
from learner import checkpoint

ROOT = Path(__file__).resolve().parents[2]
OF_IDS = ("muzero", "gumbel_muzero", "efficientzero")
"""Algorithms that take discrete actions alone."""


class Vector(gymnasium.Env[Any, Any]):
    """A vector in, a vector out, in bounds that float32 would leave."""

    observation_space = spaces.Box(-1, 1, (3,), np.float64)
    action_space = spaces.Box(np.array([-1.0, -0.3]), np.array([1.0, 0.3]), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._time = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self._time += 1
        return self.observe(), 1.0, False, self._time == 8, {}

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 3)


class Nested(Vector):
    """Every kind of observation, and ids that begin at 5."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Dict({"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}),
            "speed": spaces.Box(-1, 1, (3,), np.float64),
            "gear": spaces.Discrete(3),
        }
    )
    action_space = spaces.Discrete(4, start=5)

    def observe(self) -> Any:
        image = self.np_random.integers(0, 256, (64, 64, 3), np.uint8)
        return {"camera": {"image": image}, "speed": super().observe(), "gear": int(self.np_random.integers(3))}


gymnasium.register("WorldfleetVector-v0", entry_point=Vector)
gymnasium.register("WorldfleetNested-v0", entry_point=Nested)


def first_checkpoint(path: Path, algo: str, env: str, *overrides: str) -> Path:
    """A run directory as after one update that has changed nothing: initial weights act."""
    config = resolve(algo, env, "debug", overrides=["cluster.mode=local", *overrides])
    run_dir = RunDir.create(path, config)
    state = {"algorithm": build.algorithm(config).state_dict(), "updates": 1}
    checkpoint.save(run_dir.checkpoints, 100, {"learner": state, "recorder": {"steps": 100}})
    run_dir.close()
    return path


def episode(agent: worldfleet.Agent, env: gymnasium.Env[Any, Any], seed: int, explore: bool = False) -> list[Any]:
    """The actions of an episode; the environment checks them."""
    observation, _ = env.reset(seed=0)
    carry, done, actions = agent.reset(seed=seed), False, []
    while not done:
        action, carry = agent.act(observation, carry, explore)
        observation, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        actions.append(action)
    return actions


# The visual model sees pictures alone: tests/integration/test_models.py has it.
@pytest.mark.parametrize("algo", [name for name in preset_names("algorithms") if name not in (*OF_IDS, "visual")])
def test_an_agent_acts_in_a_box(algo: str, tmp_path: Path) -> None:
    agent = worldfleet.load(first_checkpoint(tmp_path / "run", algo, "gym:WorldfleetVector-v0"))
    actions = episode(agent, Vector(), seed=1)
    assert len(actions) == 8
    assert np.array_equal(actions, episode(agent, Vector(), seed=1))
    assert not np.array_equal(episode(agent, Vector(), 1, explore=True), episode(agent, Vector(), 2, explore=True))


@pytest.mark.parametrize("algo", OF_IDS)
def test_an_agent_of_ids_acts(algo: str, tmp_path: Path) -> None:
    keys = "algorithm.observation_keys=[speed]"
    agent = worldfleet.load(first_checkpoint(tmp_path / "run", algo, "gym:WorldfleetNested-v0", keys))
    actions = episode(agent, Nested(), seed=1)
    assert len(actions) == 8
    assert all(5 <= action < 9 for action in actions)
    assert np.array_equal(actions, episode(agent, Nested(), seed=1))


@pytest.mark.parametrize(
    "overrides", [(), ("algorithm.acting=planner", "planner={method: mcts, simulations: 4}")], ids=["actor", "mcts"]
)
def test_an_agent_takes_nested_observations_and_gives_the_environments_ids(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    path = first_checkpoint(tmp_path / "run", "dreamer_v3", "gym:WorldfleetNested-v0", *overrides)
    actions = episode(worldfleet.load(path), Nested(), seed=1)
    assert len(actions) == 8
    assert all(5 <= action < 9 for action in actions)


def test_only_the_first_observation_of_an_episode_clears_the_memory(tmp_path: Path) -> None:
    mode = "algorithm.policy.evaluation=mode"
    agent = worldfleet.load(first_checkpoint(tmp_path / "run", "dreamer_v3", "gym:WorldfleetVector-v0", mode))
    observation, _ = Vector().reset(seed=0)
    first, carry = agent.act(observation, agent.reset())
    second, _ = agent.act(observation, carry)
    again, _ = agent.act(observation, agent.reset())
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_an_observation_of_another_environment_is_refused(tmp_path: Path) -> None:
    agent = worldfleet.load(first_checkpoint(tmp_path / "run", "pets", "gym:WorldfleetVector-v0"))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        agent.act(np.zeros(2), agent.reset())


def test_the_example_of_the_documentation_runs_without_ray(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    first_checkpoint(tmp_path / "runs" / "cartpole", "dreamer_v3", "gym:CartPole-v1")
    code = f"{example}\nimport sys\nassert 'ray' not in sys.modules\nprint(action, done)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[01] True\n", done.stdout)


def test_what_an_agent_cannot_take_is_refused_in_a_line(tmp_path: Path) -> None:
    path = first_checkpoint(tmp_path / "run", "pets", "nav3d")
    agent = worldfleet.load(path)
    observation, carry = np.zeros(9, np.float32), agent.reset()
    with pytest.raises(ValueError, match=r"nav3d: 'state' is .*nan.*, its spec says finite numbers"):
        agent.act(observation + np.nan, carry)
    with pytest.raises(ValueError, match="carry must come from reset or act of this agent, got NoneType"):
        agent.act(observation, None)  # type: ignore[arg-type]
    for seed, rule in ((-1, "at least 0"), (1.5, "an integer")):
        with pytest.raises(ValueError, match=f"seed must be {rule}, got {seed}"):
            agent.reset(seed)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"the policy of nav3d takes 'state' as float32 \(9,\), nav3d_creature has float32 \(7,\)"
    ):
        worldfleet.load(path, ["env.name=nav3d_creature"])
