"""The creature: its observation and its stamina."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from envs.nav3d.config import Nav3DCreatureConfig
from envs.nav3d.creature import Nav3DCreatureEnv
from tests.envs.test_nav3d import OPEN_GOAL, OPEN_START, fly, free_flight, toward_goal


def test_state_is_position_goal_offset_and_stamina() -> None:
    env = Nav3DCreatureEnv()
    observation, _ = env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    assert_allclose(observation["state"], [-4, 0, 1, 0, 4, 0, 1], atol=1e-6)
    assert observation["state"].dtype == np.float32


def test_effort_spends_stamina_and_rest_restores_it() -> None:
    env = Nav3DCreatureEnv()
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    full = [env.step(np.ones(3))[0]["state"][6] for _ in range(3)]
    assert_allclose(full, [0.975, 0.95, 0.925], atol=1e-6)  # 0.25 / s
    rest = [env.step(np.zeros(3))[0]["state"][6] for _ in range(6)]
    assert_allclose(rest, [0.94, 0.955, 0.97, 0.985, 1.0, 1.0], atol=1e-6)  # 0.15 / s, never above 1
    half = env.step(np.array([1.0, np.sqrt(0.5), 0.0]))[0]["state"][6]  # effort (1 + 0.5) / 3 = 0.5
    assert_allclose(half, 1.0 + 0.1 * (0.15 * 0.5 - 0.25 * 0.5), atol=1e-6)
    assert_allclose(env.reset()[0]["state"][6], 1.0)


def test_low_stamina_weakens_the_force() -> None:
    env = Nav3DCreatureEnv(Nav3DCreatureConfig(effort_cost=5.0, max_episode_steps=1000))
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    *_, info = env.step(np.array([1.0, -1.0, 1.0]))  # stamina 1 -> 0.5: full force
    assert_allclose(info["qvel"][0], free_flight(0.0, 1.0, mass=0.2)[1], rtol=1e-9)
    speed = info["qvel"][0]
    observation, *_, info = env.step(np.array([1.0, -1.0, 1.0]))  # stamina 0.5 -> 0: still full force
    assert_allclose(info["qvel"][0], free_flight(speed, 1.0, mass=0.2)[1], rtol=1e-9)
    assert observation["state"][6] == 0.0
    speed = info["qvel"][0]
    *_, info = env.step(np.array([1.0, -1.0, 1.0]))  # exhausted: a fifth of the force
    assert_allclose(info["qvel"][0], free_flight(speed, 0.2, mass=0.2)[1], rtol=1e-9)


def test_a_simple_controller_succeeds() -> None:
    env = Nav3DCreatureEnv()
    assert sum(fly(env, seed, toward_goal)[0] for seed in range(50)) >= 35


def test_invalid_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="tired_below"):
        Nav3DCreatureConfig(tired_below=0.0)
