"""The navigation task: physics, reward, cost, episode ends, options, errors, solvability."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_allclose, assert_array_equal

from envs.nav3d import registration
from envs.nav3d.config import Nav3DConfig
from envs.nav3d.env import Nav3DEnv
from envs.nav3d.layout import FIXED_LAYOUT, random_layout, sample_start_and_goal

OPEN_START, OPEN_GOAL = (-4.0, 0.0, 1.0), (-4.0, 4.0, 1.0)
"""A start from which nothing is in the way toward +x or +y for a metre."""


def fly(env: Nav3DEnv, seed: int, policy: Any) -> tuple[bool, int]:
    """(reached the goal, steps) of one episode."""
    _, info = env.reset(seed=seed)
    steps = 0
    while True:
        _, _, terminated, truncated, info = env.step(policy(info))
        steps += 1
        if terminated or truncated:
            return terminated, steps


def toward_goal(info: dict[str, Any]) -> np.ndarray:
    """Proportional-derivative control straight at the goal."""
    thrust: np.ndarray = 1.5 * (info["goal"] - info["qpos"]) - 0.5 * info["qvel"]
    return thrust.clip(-1, 1).astype(np.float32)


def free_flight(
    velocity: float, action: float, mass: float = 1.0, drag: float = 1.5, force: float = 3.0
) -> tuple[float, float]:
    """(displacement, velocity) on one axis after one step: four implicit Euler sub-steps of m v' = F - d v."""
    step, displacement = 0.025, 0.0
    for _ in range(4):
        velocity = (velocity + step * action * force / mass) / (1 + step * drag / mass)
        displacement += step * velocity
    return displacement, velocity


@pytest.mark.parametrize("gymnasium_id", registration.GYMNASIUM_IDS.values())
def test_gymnasium_accepts_the_environments(gymnasium_id: str) -> None:
    check_env(gym.make(gymnasium_id).unwrapped)


@pytest.mark.integration
@pytest.mark.parametrize("gymnasium_id", registration.GYMNASIUM_IDS.values())
def test_ray_accepts_the_environments(gymnasium_id: str) -> None:
    multi_agent_env = pytest.importorskip("ray.rllib.env.multi_agent_env")
    from ray.rllib.utils.pre_checks.env import check_multiagent_environments

    several = multi_agent_env.make_multi_agent(lambda _: gym.make(gymnasium_id))
    check_multiagent_environments(several({"num_agents": 2}))


@pytest.mark.integration
def test_rllib_samples_episodes() -> None:
    pytest.importorskip("ray.rllib")
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.connectors.env_to_module import FlattenObservations
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    config = PPOConfig().environment(registration.GYMNASIUM_IDS["nav3d"])
    config = config.env_runners(
        num_env_runners=0, env_to_module_connector=lambda env=None, spaces=None, device=None: FlattenObservations()
    )
    runner = SingleAgentEnvRunner(config=config)
    episodes = runner.sample(num_timesteps=250, random_actions=True)
    runner.stop()
    assert [len(episode) for episode in episodes] == [200, 50]
    assert episodes[0].is_truncated
    assert not episodes[0].is_terminated


def test_state_is_position_velocity_and_goal_offset() -> None:
    env = Nav3DEnv()
    observation, info = env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    assert_allclose(observation["state"], [-4, 0, 1, 0, 0, 0, 0, 4, 0], atol=1e-6)
    assert observation["state"].dtype == np.float32
    observation, *_, info = env.step(np.array([1.0, 0.5, 0.0], np.float32))
    assert_allclose(observation["state"][:3], info["qpos"], rtol=1e-6)
    assert_allclose(observation["state"][3:6], info["qvel"], rtol=1e-6)
    assert_allclose(observation["state"][6:], info["goal"] - info["qpos"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "mass", "drag"),
    [({}, 1.0, 1.5), ({"mass_scale": 2.0}, 2.0, 1.5), ({"drag_scale": 3.0}, 1.0, 4.5), ({"drag_scale": 0.0}, 1.0, 0.0)],
)
def test_physics_is_damped_newton(options: dict[str, float], mass: float, drag: float) -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL, **options})
    *_, first = env.step(np.array([1.0, 0.5, 0.0]))
    *_, second = env.step(np.array([-0.5, 0.0, 0.25]))
    for axis, (early, late) in enumerate([(1.0, -0.5), (0.5, 0.0), (0.0, 0.25)]):
        moved, speed = free_flight(0.0, early, mass, drag)
        assert_allclose(first["qpos"][axis] - OPEN_START[axis], moved, rtol=1e-9, atol=1e-12)
        assert_allclose(first["qvel"][axis], speed, rtol=1e-9, atol=1e-12)
        moved, speed = free_flight(speed, late, mass, drag)
        assert_allclose(second["qpos"][axis] - first["qpos"][axis], moved, rtol=1e-9, atol=1e-12)


def test_options_last_one_episode() -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"mass_scale": 4.0})
    env.reset(options={"start": OPEN_START, "goal": OPEN_GOAL})
    *_, info = env.step(np.array([1.0, 0.0, 0.0]))
    assert_allclose(info["qvel"][0], free_flight(0.0, 1.0)[1], rtol=1e-9)


def test_scales_of_the_configuration_equal_those_of_the_options() -> None:
    scaled = Nav3DEnv(Nav3DConfig(mass_scale=2.0, drag_scale=0.5))
    scaled.reset(options={"start": OPEN_START, "goal": OPEN_GOAL})
    *_, info = scaled.step(np.array([1.0, 0.0, 0.0]))
    assert_allclose(info["qvel"][0], free_flight(0.0, 1.0, mass=2.0, drag=0.75)[1], rtol=1e-9)


def test_wind_has_the_stated_force() -> None:
    """With heavy drag the body follows the gusts: velocity = wind force / drag, so its spread is known."""
    config = Nav3DConfig(wind_std=1.0, wind_time=0.3, mass=0.05, drag=20.0, max_episode_steps=100_000)
    env = Nav3DEnv(config)
    env.reset(seed=1, options={"start": (-4.0, 0.0, 2.0), "goal": OPEN_GOAL})
    velocities = np.array([env.step(np.zeros(3))[4]["qvel"] for _ in range(4000)])
    assert_allclose(velocities.std() * 20.0, 1.0, rtol=0.06)
    correlation = np.mean(velocities[1:] * velocities[:-1]) / np.mean(velocities**2)
    assert_allclose(correlation, np.exp(-0.1 / 0.3), atol=0.04)


def test_wind_option_moves_a_resting_body() -> None:
    env = Nav3DEnv()
    env.reset(seed=0)
    assert_array_equal(env.step(np.zeros(3))[4]["qvel"], np.zeros(3))
    env.reset(seed=0, options={"wind_std": 0.5})
    assert np.abs(env.step(np.zeros(3))[4]["qvel"]).min() > 0


def test_reward_is_progress_minus_effort() -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    _, reward, terminated, truncated, info = env.step(np.array([0.0, 1.0, -0.5]))
    progress = 4.0 - np.linalg.norm(info["goal"] - info["qpos"])
    assert_allclose(reward, progress - 0.02 * (1.0 + 0.25) / 3, rtol=1e-9)
    assert [terminated, truncated, info["is_success"], info["collision"]] == [False] * 4


def test_collision_is_penalised_while_in_contact() -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"start": (-4.7, 0.0, 1.0), "goal": OPEN_GOAL})
    before = float(np.linalg.norm(np.array(OPEN_GOAL) - (-4.7, 0.0, 1.0)))
    for _ in range(3):
        _, reward, _, _, info = env.step(np.array([-1.0, 0.0, 0.0]))
        distance = float(np.linalg.norm(info["goal"] - info["qpos"]))
        assert info["collision"] == (info["qpos"][0] - 0.25 <= -5.0)
        assert_allclose(reward, before - distance - 0.02 / 3 - 0.1 * info["collision"], rtol=1e-9)
        before = distance
    assert info["collision"]


def test_obstacles_stop_the_body() -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"start": (-4.0, 1.9, 2.0), "goal": (4.0, -4.0, 2.0)})  # pillar of radius 0.45 at x -2.3
    for _ in range(30):
        *_, info = env.step(np.array([1.0, 0.0, 0.0]))
    assert info["collision"]
    assert_allclose(info["qpos"][0], -2.3 - 0.45 - 0.25, atol=0.03)


def test_goal_ends_the_episode_with_the_bonus() -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    before, terminated = 4.0, False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(np.array([0.0, 1.0, 0.0]))
        distance = float(np.linalg.norm(info["goal"] - info["qpos"]))
        assert_allclose(reward, before - distance - 0.02 / 3 + 2.0 * terminated, rtol=1e-9)
        assert terminated == info["is_success"] == (distance <= 0.5)
        assert not truncated
        before = distance
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(3))


def test_time_limit_truncates() -> None:
    env = Nav3DEnv(Nav3DConfig(max_episode_steps=7))
    env.reset(seed=0)
    ends = [env.step(np.zeros(3))[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]


@pytest.mark.parametrize("name", registration.GYMNASIUM_IDS)
def test_repeated_actions_equal_single_ones_added_up(name: str) -> None:
    options = {"wind_std": 0.5, "max_episode_steps": 20, "frame": "heading"}
    single, repeated = (registration.make(name, **options, action_repeat=n) for n in (1, 3))
    assert getattr(repeated, "max_episode_steps", None) == 7
    assert getattr(repeated, "step_seconds", 0.0) == pytest.approx(0.3)
    for env in (single, repeated):
        env.reset(seed=3, options={"start": (0.0, 0.2, 1.8), "goal": (-3.4, 0.2, 1.8)})
    for action in np.random.default_rng(0).uniform(-1, 1, (7, 3)):
        reward, cost, contact, truncated = 0.0, 0.0, False, False
        for _ in range(3):
            if truncated:
                break
            ours, gain, _, truncated, info = single.step(action)
            reward, cost, contact = reward + float(gain), cost + info["cost"], contact or info["collision"]
        theirs, total, terminated, truncated_too, info = repeated.step(action)
        assert ours.keys() == theirs.keys()
        for key, values in ours.items():
            assert_array_equal(values, theirs[key])
        assert [total, info["cost"], info["collision"]] == [reward, cost, contact]
        assert [terminated, truncated_too] == [False, truncated]
    assert truncated


def test_a_repeated_action_ends_at_the_goal() -> None:
    env = Nav3DEnv(Nav3DConfig(action_repeat=100))
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    _, _, terminated, truncated, info = env.step(np.array([0.0, 1.0, 0.0]))
    assert [terminated, truncated, info["is_success"]] == [True, False, True]
    assert 0.3 < np.linalg.norm(info["goal"] - info["qpos"]) <= 0.5


def test_cost_is_one_inside_a_hazard() -> None:
    env = Nav3DEnv()
    centre, radius = np.array([0.0, 0.2, 1.8]), 1.0
    _, info = env.reset(seed=0, options={"start": centre, "goal": (-4.0, 4.0, 1.0)})
    assert info["cost"] == 1.0
    costs = []
    for _ in range(20):
        *_, info = env.step(np.array([-1.0, 0.0, 0.0]))
        assert info["cost"] == float(np.linalg.norm(info["qpos"] - centre) <= radius)
        costs.append(info["cost"])
    assert costs[0] == 1.0
    assert costs[-1] == 0.0


def test_info_gives_the_true_state() -> None:
    env = Nav3DEnv()
    _, info = env.reset(seed=0)
    assert info["layout"] == "fixed"
    assert_array_equal(info["obstacles"][:, :3], FIXED_LAYOUT.obstacles)
    assert_array_equal(info["hazards"][:, 3], [1.0, 0.9, 0.8])
    assert env.metrics == {"cost": "sum", "collision": "sum", "is_success": "last"}
    earlier = info["qpos"].copy()
    env.step(np.ones(3))
    assert_array_equal(info["qpos"], earlier)


def test_equal_seeds_give_equal_streams() -> None:
    def stream(seed: int) -> np.ndarray:
        env = Nav3DEnv(Nav3DConfig(layout="random", wind_std=0.3, max_episode_steps=10))
        rng = np.random.default_rng(7)
        rows = []
        for episode in range(3):
            observation, _ = env.reset(seed=seed if episode == 0 else None)
            rows.append(np.concatenate(list(observation.values())))
            steps = (env.step(rng.uniform(-1, 1, 3))[0] for _ in range(10))
            rows.extend(np.concatenate(list(step.values())) for step in steps)
        return np.array(rows)

    assert_array_equal(stream(3), stream(3))
    assert not np.array_equal(stream(3), stream(4))


def test_heading_frame_turns_the_action() -> None:
    env = Nav3DEnv(Nav3DConfig(frame="heading"))
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})  # the goal is toward +y, so is the heading
    *_, info = env.step(np.array([1.0, 0.5, 0.25]))
    assert_allclose(info["qvel"], [free_flight(0.0, a)[1] for a in (-0.5, 1.0, 0.25)], atol=1e-9)


def test_lidar_reads_hand_computed_distances() -> None:
    env = Nav3DEnv(Nav3DConfig(layout="random"))

    def lidar(x: float, y: float, z: float) -> np.ndarray:
        options = {"layout": "fixed", "start": (x, y, z), "goal": (-1.0, -1.2, 3.0)}
        return env.reset(seed=0, options=options)[0]["lidar"]

    corner = lidar(-4.5, 4.5, 1.0)
    assert corner.shape == (26,)
    assert corner.dtype == np.float32
    assert_allclose(corner[[0, 6, 12]], [1.0, 0.1, 0.1], atol=1e-6)  # east wall beyond 5 m; north and west 0.5 m
    assert_allclose(corner[9], 0.5 * np.sqrt(2) / 5, atol=1e-6)  # into the corner
    assert_allclose(corner[24:], [3.0 / 5, 1.0 / 5], atol=1e-6)  # ceiling and floor
    pillar = lidar(-4.0, 1.9, 2.0)
    assert_allclose(pillar[0], (1.7 - 0.45) / 5, atol=1e-6)
    box = lidar(4.3, -2.0, 1.0)
    assert_allclose(box[12], (1.3 - 0.5) / 5, atol=1e-6)
    assert_allclose(lidar(4.3, -2.0, 2.5)[12], 1.0)  # over the box


def test_random_layouts_keep_their_gaps() -> None:
    rng = np.random.default_rng(0)
    layouts = [random_layout(rng) for _ in range(50)]
    assert len({layout.obstacles.tobytes() for layout in layouts}) == 50
    for layout in layouts:
        ground = layout.obstacles[:4, :2]  # pillars: radii 0.45, 0.6, 0.45, 0.5
        gaps = np.linalg.norm(ground[:, None] - ground, axis=-1) - np.add.outer(*[np.array([0.45, 0.6, 0.45, 0.5])] * 2)
        assert gaps[~np.eye(4, dtype=bool)].min() >= 1.0
        start, goal = sample_start_and_goal(layout, 3.0, rng)
        assert np.linalg.norm(goal - start) >= 3.0
        for point in (start, goal):
            assert layout.is_free(point, 0.2)
            assert layout.distance_to_hazards(point) >= 0.45


@pytest.mark.parametrize("layout", ["fixed", "random"])
def test_a_simple_controller_succeeds(layout: Any) -> None:
    env = Nav3DEnv(Nav3DConfig(layout=layout))
    results = [fly(env, seed, toward_goal) for seed in range(100)]
    successes = [steps for success, steps in results if success]
    assert len(successes) >= 70
    assert 20 <= np.mean(successes) <= 90


def test_a_random_policy_fails() -> None:
    env = Nav3DEnv()
    rng = np.random.default_rng(0)
    assert sum(fly(env, seed, lambda _: rng.uniform(-1, 1, 3))[0] for seed in range(60)) < 6


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        ([0.0, np.nan, 0.0], "nan"),
        ([0.0, np.inf, 0.0], "inf"),
        ([1.5, 0.0, 0.0], "1.5"),
        ([0.0, 0.0], r"\(2,\)"),
        (0.5, "0.5"),
    ],
)
def test_invalid_actions_are_refused_and_change_nothing(action: Any, shown: str) -> None:
    env = Nav3DEnv()
    env.reset(seed=0, options={"start": OPEN_START, "goal": OPEN_GOAL})
    with pytest.raises(ValueError, match=shown):
        env.step(np.array(action))
    *_, info = env.step(np.array([1.0, 0.0, 0.0]))
    assert_allclose(info["qpos"][0] - OPEN_START[0], free_flight(0.0, 1.0)[0], rtol=1e-9)


def test_rounding_at_the_edge_of_the_box_is_forgiven() -> None:
    env = Nav3DEnv()
    env.reset(seed=0)
    observation, *_ = env.step(np.array([1.0 + 5e-7, -1.0 - 5e-7, 0.0]))
    assert observation["state"][3] > 0 > observation["state"][4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mas_scale": 2.0}, "did you mean 'mass_scale'"),
        ({"layout": "randon"}, "did you mean 'random'"),
        ({"mass_scale": -1.0}, "-1.0"),
        ({"wind_std": float("nan")}, "nan"),
        ({"wind_std": "strong"}, "strong"),
        ({"start": (9.0, 0.0, 1.0)}, "start"),
        ({"start": (-2.3, 1.9, 2.0)}, "obstacle"),
        ({"start": (-4.0, 0.0, 1.0), "goal": (-4.0, 0.5, 1.0)}, "3 m apart"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Nav3DEnv().reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("field", "value"), [("layout", "maze"), ("substeps", 0), ("substeps", 2.5), ("mass", 0), ("mass", True)]
)
def test_invalid_configurations_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Nav3DConfig(**{field: value})
