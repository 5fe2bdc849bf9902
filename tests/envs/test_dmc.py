"""The DeepMind Control Suite: observations, rewards, ends, seeds and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from envs import options as extras
from envs.registry import env_spec, make_env, make_vector_env
from envs.specs import ArraySpec

pytest.importorskip("dm_control")

from gymnasium.utils.env_checker import check_env

from envs.dmc import DmcConfig, DmcEnv, import_suite


def has_gl() -> bool:
    try:
        DmcEnv("cartpole", "balance", DmcConfig(observation="image", image_size=8)).reset(seed=0)
    except RuntimeError:
        return False
    return True


def bounded(env: Any, rng: np.random.Generator, *batch: int) -> np.ndarray:
    low, high = env.spec.action.bounds()
    return rng.uniform(low, high, (*batch, *low.shape)).astype(np.float32)


def test_gymnasium_accepts_the_environment() -> None:
    check_env(DmcEnv("walker", "walk"), skip_render_check=True)


def test_the_state_joins_all_observations_in_alphabetical_order() -> None:
    env = make_env("dmc:walker-walk")
    assert env.spec.observation == {"state": ArraySpec((24,), "float32")}
    assert env.spec.action == ArraySpec((6,), "float32", -1.0, 1.0)
    assert (env.spec.max_episode_steps, env.spec.step_seconds) == (1000, 0.025)
    step = env.reset(seed=0)
    dm_env = env._env.unwrapped._env  # type: ignore[attr-defined]
    observed = dm_env.task.get_observation(dm_env.physics)
    assert_array_equal(step.observation["state"][0], np.float32(observed["height"]))
    assert_array_equal(step.observation["state"][1:15], observed["orientations"].astype(np.float32))
    assert_array_equal(step.observation["state"][15:], observed["velocity"].astype(np.float32))


def test_rewards_and_states_are_those_of_the_suite() -> None:
    env = make_env("dmc:cheetah-run")
    env.reset(seed=0)
    bare = import_suite().load("cheetah", "run", task_kwargs={"random": 0})
    bare.reset()
    dm_env = env._env.unwrapped._env  # type: ignore[attr-defined]
    with bare.physics.reset_context():
        bare.physics.set_state(dm_env.physics.get_state())
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = bounded(env, rng)
        ours, theirs = env.step(action), bare.step(action)
        assert_allclose(ours.reward, theirs.reward, rtol=1e-6, atol=1e-9)
        joined = np.concatenate([theirs.observation["position"], theirs.observation["velocity"]])
        assert_allclose(ours.observation["state"], joined, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("repeat", "steps"), [(1, 1000), (2, 500), (3, 334)])
def test_time_runs_out_without_a_terminal_step(repeat: int, steps: int) -> None:
    env = make_env("dmc:cartpole-balance", action_repeat=repeat)
    assert env.spec.max_episode_steps == steps
    step, count = env.reset(seed=0), 0
    while not step.is_last:
        step = env.step(np.zeros(1, np.float32))
        count += 1
    assert count == steps
    assert not step.is_terminal
    assert not step.is_first


def test_repeated_actions_add_up_their_rewards() -> None:
    single, repeated = make_env("dmc:walker-walk"), make_env("dmc:walker-walk", action_repeat=4)
    single.reset(seed=3)
    repeated.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(10):
        action = bounded(single, rng)
        parts = [single.step(action) for _ in range(4)]
        whole = repeated.step(action)
        assert_allclose(whole.reward, sum(part.reward for part in parts), rtol=1e-6)
        assert_array_equal(whole.observation["state"], parts[-1].observation["state"])


@pytest.mark.parametrize("task", ["walker-walk", "reacher-easy", "ball_in_cup-catch", "finger-turn_hard"])
def test_seeds_fix_the_streams_and_redo_brings_them_back(task: str) -> None:
    env, twin, other = (make_vector_env(f"dmc:{task}", 2, max_episode_frames=15) for _ in range(3))
    rng = np.random.default_rng(0)
    batch, again = env.reset([1, 2]), twin.reset([1, 2])
    assert (batch.observation["state"][0] != batch.observation["state"][1]).any()
    firsts, taken = [batch], []
    for _ in range(40):
        actions = bounded(env, rng, 2)
        batch, again = env.step(actions), twin.step(actions)
        assert_array_equal(batch.observation["state"], again.observation["state"])
        assert_array_equal(batch.reward, again.reward)
        taken = [] if batch.is_first.any() else [*taken, actions]
        firsts += [batch] if batch.is_first.any() else []
    assert len(firsts) == 3
    assert (firsts[0].observation["state"] != firsts[1].observation["state"]).any()
    redone = other.redo(env.origins(), list(np.stack(taken, 1)))
    for _ in range(20):
        assert_array_equal(redone.observation["state"], batch.observation["state"])
        assert_array_equal(redone.is_first, batch.is_first)
        actions = bounded(env, rng, 2)
        batch, redone = env.step(actions), other.step(actions)


def test_the_true_last_state_is_seen_before_the_reset() -> None:
    env = make_vector_env("dmc:pendulum-swingup", 1, max_episode_frames=5)
    batches = [env.reset([0]), *(env.step(np.ones((1, 1), np.float32)) for _ in range(7))]
    assert [bool(batch.is_first[0]) for batch in batches] == [True, *[False] * 5, True, False]
    assert [bool(batch.is_last[0]) for batch in batches] == [*[False] * 5, True, False, False]
    assert batches[6].reward[0] == 0
    spin = [batch.observation["state"][0, 2] for batch in batches]  # angular velocity, 0 at the start
    assert spin[0] == spin[6] == 0
    assert spin[5] != 0


@pytest.mark.skipif(not has_gl(), reason="no OpenGL here")
def test_pictures_are_drawn() -> None:
    env = make_env("dmc:cartpole-balance", observation="both", image_size=32, shadows=False)
    assert {key: spec.shape for key, spec in env.spec.observation.items()} == {"state": (5,), "image": (32, 32, 3)}
    first = env.reset(seed=0).observation["image"]
    kept = first.copy()
    for _ in range(30):
        step = env.step(np.ones(1, np.float32))
    assert (step.observation["image"] != first).any()
    assert_array_equal(first, kept)
    assert first.dtype == np.uint8
    assert first.std() > 5
    assert env.render().shape == (256, 256, 3)
    only = env_spec("dmc:cartpole-balance", observation="image")
    assert list(only.observation) == ["image"]
    assert only.observation["image"].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("name", "options", "camera"),
    [
        ("dmc:quadruped-walk", {}, 2),
        ("dmc:quadruped-walk", {"camera": 0}, 0),
        ("dmc:walker-walk", {}, 0),
        ("dmc:walker-walk", {"camera": 1}, 1),
    ],
)
def test_each_domain_has_its_camera(
    name: str, options: dict[str, Any], camera: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Camera 0 of quadruped stands far off; benchmarks film it with camera 2."""
    domain, _, task = name.removeprefix("dmc:").partition("-")
    env = DmcEnv(domain, task, DmcConfig(observation="image", image_size=8, **options))
    used: list[int] = []

    def render(height: int, width: int, camera_id: int) -> Any:
        used.append(camera_id)
        return np.zeros((height, width, 3), np.uint8)

    monkeypatch.setattr(env._env.physics, "render", render)
    env.reset(seed=0)
    env.render()
    assert set(used) == {camera}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dmc:walkr-walk", {}, r"unknown domain 'walkr' \(did you mean 'walker'"),
        ("dmc:walker-wlak", {}, "did you mean 'walk'"),
        ("dmc:walker", {}, "task of walker ''"),
        ("dmc:walker-walk", {"observations": "image"}, "did you mean 'observation'"),
        ("dmc:walker-walk", {"observation": "pixels"}, "observation must be 'state', 'image' or 'both', got 'pixels'"),
        ("dmc:walker-walk", {"camera": 9}, r"camera must be in \[-1, 1\] for walker-walk, got 9"),
        ("dmc:walker-walk", {"action_repeat": 0}, "action_repeat"),
    ],
)
def test_mistakes_name_the_nearest(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env(name, **options)


def test_missing_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "dmc", ("no_such_module",))
    with pytest.raises(ValueError, match=r"'dmc' .*pip install 'worldfleet\[dmc\]'"):
        make_env("dmc:walker-walk")
