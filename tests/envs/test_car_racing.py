"""CarRacing on both backends: pictures, actions, episode ends, repetition, names and refusals."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs import options as extras
from envs.car_racing import factory
from envs.car_racing.config import DISCRETE_CONTROLS, CarRacingConfig
from envs.registry import env_spec, make_env, make_vector_env, vector_backend
from envs.resize import AreaResize
from envs.specs import ArraySpec, StepBatch, VectorEnv

pytest.importorskip("Box2D")
pytest.importorskip("pygame")

from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.utils.env_checker import check_env

from envs.car_racing.env import CarRacingEnv
from envs.car_racing.simulator import Simulator

GAS = np.array([0.0, 1.0, 0.0], np.float32)
NAMES = ("car_racing", "car_racing_discrete")


@pytest.fixture(params=["gymnasium", "envpool"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "envpool":
        pytest.importorskip("envpool")
    return str(request.param)


def gentle(rng: np.random.Generator, env: VectorEnv) -> np.ndarray:
    """Random actions [N, ...] that keep the car moving."""
    if env.spec.action.is_discrete:
        return rng.integers(0, 5, env.num_envs)
    return (rng.uniform([-1, 0, 0], 1, (env.num_envs, 3)) * [0.3, 1.0, 0.1]).astype(np.float32)


def play(env: VectorEnv, seeds: list[int], count: int) -> tuple[list[StepBatch], np.ndarray]:
    """The steps after reset, and the actions of the present episode [T, N, ...]."""
    rng = np.random.default_rng(0)
    batches, taken = [env.reset(seeds)], []
    for _ in range(count):
        actions = gentle(rng, env)
        batches.append(env.step(actions))
        taken = [] if batches[-1].is_first.any() else [*taken, actions]
    return batches, np.array(taken)


@pytest.mark.parametrize("discrete", [False, True])
def test_gymnasium_accepts_the_environment(discrete: bool) -> None:
    check_env(CarRacingEnv(CarRacingConfig(max_episode_frames=20), discrete), skip_render_check=True)


def test_the_simulator_draws_what_gymnasium_draws() -> None:
    ours, theirs = Simulator(False, 0.95), CarRacing("rgb_array")
    rng = np.random.default_rng(0)
    for seed, frames in ((0, 60), (None, 5)):  # past the zoom of the first second; another track
        assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        for _ in range(frames):
            action = (rng.uniform([-1, 0, 0], 1) * [0.3, 1, 0]).astype(np.float32)
            mine, reference = ours.step(action), theirs.step(action)
            assert_array_equal(mine[0], reference[0])
            assert mine[1:] == reference[1:]
        assert_array_equal(ours.render(), theirs.render())


@pytest.mark.parametrize("dashboard", [True, False])
def test_the_observation_is_the_area_average_of_the_picture(dashboard: bool) -> None:
    env, plain = make_env("car_racing", dashboard=dashboard), CarRacing()
    expected = np.empty((64, 64, 3), np.uint8)
    frames = [plain.reset(seed=4)[0], *(plain.step(GAS)[0] for _ in range(3))]
    steps = [env.reset(seed=4), *(env.step(GAS) for _ in range(3))]
    for frame, step in zip(frames, steps, strict=True):
        cut = frame if dashboard else frame[:84]
        AreaResize(cut.shape, (64, 64))(cut, expected)
        assert_array_equal(step.observation["image"], expected)
    assert (frames[0][84:, :, :].max(-1) < 10).mean() > 0.5  # the dashboard is mostly black


def test_observations_belong_to_the_receiver() -> None:
    env = make_env("car_racing")
    first = env.reset(seed=0).observation["image"]
    kept = first.copy()
    for _ in range(5):
        env.step(GAS)
    assert_array_equal(first, kept)


@pytest.mark.parametrize("name", NAMES)
def test_specs_agree_with_the_environments(name: str, backend: str) -> None:
    options: dict[str, Any] = {"image_size": 48, "action_repeat": 8, "max_episode_frames": 500, "backend": backend}
    spec = env_spec(name, **options)
    assert spec == make_env(name, **options).spec == make_vector_env(name, 1, **options).spec
    assert spec.observation == {"image": ArraySpec((48, 48, 3), "uint8", 0, 255)}
    assert (spec.max_episode_steps, spec.step_seconds, spec.info_keys) == (63, 0.16, ("is_success",))
    discrete = ArraySpec((), "int64", 0, 4, 5)
    box = ArraySpec((3,), "float32", (-1.0, 0.0, 0.0), 1.0)
    assert spec.action == (discrete if name == "car_racing_discrete" else box)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("repeat", [1, 3])
def test_the_true_last_picture_is_seen_before_the_reset(name: str, repeat: int, backend: str) -> None:
    env = make_vector_env(name, 2, backend=backend, max_episode_frames=10, action_repeat=repeat)
    length = -(-10 // repeat)
    batches, _ = play(env, [3, 4], 2 * length + 3)
    for t, batch in enumerate(batches):
        place = t % (length + 1)
        assert_array_equal(batch.is_first, [place == 0] * 2)
        assert_array_equal(batch.is_last, [place == length] * 2)
        assert not batch.is_terminal.any()
        assert not batch.info["is_success"].any()
        if place == 0:
            assert_array_equal(batch.reward, [0, 0])
    last, first = batches[length].observation["image"], batches[length + 1].observation["image"]
    assert (last != batches[length - 1].observation["image"]).any()
    assert (last != first).mean() > 0.05
    env.close()


def test_seeds_fix_the_streams_and_redo_brings_them_back(backend: str) -> None:
    options = {"backend": backend, "max_episode_frames": 30, "action_repeat": 2}
    env, twin, other = (make_vector_env("car_racing", 2, **options) for _ in range(3))
    batches, taken = play(env, [3, 4], 40)  # into the third episode
    again, _ = play(twin, [3, 4], 40)
    for left, right in zip(batches, again, strict=True):
        assert_array_equal(left.observation["image"], right.observation["image"])
        assert_array_equal(left.reward, right.reward)
    assert (batches[0].observation["image"][0] != batches[0].observation["image"][1]).any()
    redone = other.redo(env.origins(), list(taken.swapaxes(0, 1)))
    rng = np.random.default_rng(1)
    for _ in range(20):  # and over the next reset
        assert_array_equal(redone.observation["image"], batches[-1].observation["image"])
        assert_array_equal(redone.reward, batches[-1].reward)
        assert_array_equal(redone.is_first, batches[-1].is_first)
        actions = gentle(rng, env)
        batches[-1], redone = env.step(actions), other.step(actions)
    assert other.origins() == env.origins() or backend == "gymnasium"


def test_redo_goes_to_different_places_in_every_environment() -> None:
    pytest.importorskip("envpool")
    one, two, both = (make_vector_env("car_racing", n, backend="envpool", max_episode_frames=20) for n in (1, 1, 2))
    first, taken_first = play(one, [5], 50)
    second, taken_second = play(two, [6], 29)
    origins = [*one.origins(), *two.origins()]
    assert [origin["episode"] for origin in origins] == [2, 1]
    batch = both.redo(origins, [taken_first[:, 0], taken_second[:, 0]])
    assert_array_equal(batch.observation["image"][0], first[-1].observation["image"][0])
    assert_array_equal(batch.observation["image"][1], second[-1].observation["image"][0])
    with pytest.raises(ValueError, match="environment 1 ends before the last of 21 actions"):
        both.redo(origins, [taken_first[:, 0], np.tile(GAS, (21, 1))])
    with pytest.raises(RuntimeError, match="reset"):
        both.step(np.tile(GAS, (2, 1)))


def test_backends_refuse_each_others_episodes() -> None:
    pytest.importorskip("envpool")
    ours, theirs = (make_vector_env("car_racing", 1, backend=backend) for backend in ("gymnasium", "envpool"))
    ours.reset([0])
    theirs.reset([0])
    for env, foreign in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ValueError, match="play"):
            env.redo(foreign.origins(), [np.zeros((0, 3), np.float32)])


def test_repeated_actions_add_up_their_rewards(backend: str) -> None:
    single = make_vector_env("car_racing", 2, backend=backend)
    repeated = make_vector_env("car_racing", 2, backend=backend, action_repeat=4)
    single.reset([1, 2])
    repeated.reset([1, 2])
    actions = np.tile(GAS, (2, 1))
    for _ in range(9):
        parts = [single.step(actions) for _ in range(4)]
        whole = repeated.step(actions)
        np.testing.assert_allclose(whole.reward, np.sum([part.reward for part in parts], 0), atol=1e-4)
        assert_array_equal(whole.observation["image"], parts[-1].observation["image"])


def test_leaving_the_field_terminates_without_success(backend: str) -> None:
    env = make_vector_env("car_racing", 1, backend=backend, action_repeat=50)
    env.reset([0])
    batch = env.step(GAS[None] / 2)  # straight on
    while not batch.is_last[0]:
        batch = env.step(GAS[None] / 2)
    assert batch.is_terminal[0]
    assert batch.info["is_success"][0] == 0
    assert batch.reward[0] < -99
    assert env.step(GAS[None]).is_first[0]


def test_a_finished_lap_is_a_success(backend: str) -> None:
    """With no share of the tiles asked for, touching the first tile is a lap."""
    env = make_vector_env("car_racing", 1, backend=backend, lap_complete_percent=0.0)
    assert env.reset([0]).info["is_success"][0] == 0
    batch = env.step(GAS[None])
    while not batch.is_last[0]:
        assert batch.info["is_success"][0] == 0
        batch = env.step(GAS[None])
    assert batch.is_terminal[0]
    assert batch.info["is_success"][0] == 1
    assert batch.reward[0] > -1
    following = env.step(GAS[None])
    assert following.is_first[0]
    assert following.info["is_success"][0] == 0


def test_ids_stand_for_controls(backend: str) -> None:
    discrete = make_vector_env("car_racing_discrete", 5, backend=backend, action_repeat=10)
    continuous = make_vector_env("car_racing", 5, backend=backend, action_repeat=10)
    seeds, start = [7] * 5, np.full(5, 3)
    discrete.reset(seeds)
    continuous.reset(seeds)
    for ids in (*[start] * 4, np.arange(5)):
        left, right = discrete.step(ids), continuous.step(DISCRETE_CONTROLS[ids])
        np.testing.assert_allclose(left.reward, right.reward, atol=1e-3)
    close = np.abs(left.observation["image"].astype(int) - right.observation["image"].astype(int)) <= 8
    assert close.mean() > 0.99
    pictures = left.observation["image"]
    assert all((pictures[i] != pictures[j]).any() for i in range(5) for j in range(i))


def test_positive_steering_is_to_the_right(backend: str) -> None:
    """The dashboard's green bar starts at its middle and points to where the front wheels are turned."""
    env = make_vector_env("car_racing", 2, backend=backend, image_size=96, action_repeat=10)
    env.reset([0, 0])
    image = env.step(np.array([[0.6, 0.0, 0.0], [-0.6, 0.0, 0.0]], np.float32)).observation["image"][:, 84:].astype(int)
    green = (image[..., 1] > 100) & (image[..., 0] < 50) & (image[..., 2] < 50)
    right, left = (np.flatnonzero(rows.any(0)) for rows in green)
    assert right.min() >= 47
    assert right.max() >= 52
    assert left.max() <= 48
    assert left.min() <= 43


@pytest.mark.parametrize("name", NAMES)
def test_invalid_actions_step_nothing(name: str, backend: str) -> None:
    env = make_vector_env(name, 2, backend=backend)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros((2, *env.spec.action.shape), env.spec.action.dtype))
    env.reset([0, 1])
    wrong = np.array([0, 5]) if env.spec.action.is_discrete else np.array([[0, 0, 0], [0, -0.1, 0]], np.float32)
    with pytest.raises(ValueError, match="environment 1"):
        env.step(wrong)
    with pytest.raises(ValueError, match="seed"):
        env.reset([1])
    with pytest.raises(ValueError, match="reset options"):
        env.reset([1, 2], options={"wind": 1})


def test_rendering_shows_the_race(backend: str) -> None:
    env = make_vector_env("car_racing", 2, backend=backend)
    env.reset([0, 1])
    picture = env.render(1)
    assert picture.shape == ((400, 600, 3) if backend == "gymnasium" else (96, 96, 3))
    assert picture.dtype == np.uint8
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "envpol"}, "did you mean 'envpool'"),
        ({"image_sise": 32}, "did you mean 'image_size'"),
        ({"image_size": 97}, r"at most 96, got 97"),
        ({"image_size": 90, "dashboard": False}, r"at most 84, got 90"),
        ({"dashboard": 1}, "true or false, got 1"),
        ({"action_repeat": 0}, "action_repeat"),
        ({"lap_complete_percent": 95}, "got 95"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    for make in (make_env, env_spec, vector_backend):
        with pytest.raises(ValueError, match=message):
            make("car_racing", **options)


def test_the_backend_is_chosen_by_what_is_installed(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    chosen = vector_backend("car_racing", backend=backend)
    assert chosen is not None
    assert chosen.split()[0] == backend
    assert vector_backend("nav3d") is None
    monkeypatch.setitem(extras.EXTRAS, "envpool", ("no_such_module",))
    assert (vector_backend("car_racing") or "").startswith("gymnasium")
    with pytest.raises(ValueError, match=r"'envpool' .*pip install 'worldfleet\[envpool\]'"):
        factory.make_pool("car_racing", 1, 1, backend="envpool")


def test_missing_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "car-racing", ("no_such_module",))
    with pytest.raises(ValueError, match=r"'car-racing' \(no_such_module not installed\).*worldfleet\[car-racing\]"):
        make_env("car_racing")
    assert env_spec("car_racing").action.shape == (3,)


def test_nothing_is_written_to_stdout() -> None:
    code = "from envs.registry import make_env; make_env('car_racing').reset(seed=0)"
    result = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.PIPE)
    assert result.stdout == b""
