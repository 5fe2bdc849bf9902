"""The Gymnasium adapter: keys, dtypes, flags, action checks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.testing import assert_array_equal

from envs.adapters import ActionCheck, ActionDecoder, GymnasiumEnv, ObservationEncoder
from envs.contract import ContractError
from envs.registry import make_bare_env, make_env
from envs.specs import ArraySpec


class Scripted(gym.Env[Any, Any]):
    """Gives chosen spaces; terminates when the action is 2, truncates after 3 steps."""

    metrics = {"cost": "sum"}  # noqa: RUF012

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = observation_space
        self.action_space = action_space or spaces.Discrete(3)
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions = []
        self.options = options
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        terminated = bool(np.all(action == 2))
        return self.observation_space.sample(), 1.5, terminated, len(self.actions) == 3, {"cost": 2.0}


def box(shape: tuple[int, ...], dtype: Any) -> spaces.Box:
    return spaces.Box(0, 100, shape, dtype)


@pytest.mark.parametrize(
    ("space", "key", "dtype", "shape"),
    [
        (box((4,), np.float64), "state", "float32", (4,)),
        (box((8, 9, 3), np.uint8), "image", "uint8", (8, 9, 3)),
        (box((8, 9, 1), np.uint8), "image", "uint8", (8, 9, 1)),
        (box((8, 9, 2), np.uint8), "observation", "uint8", (8, 9, 2)),
        (box((3, 3), np.float32), "observation", "float32", (3, 3)),
        (box((3,), np.int64), "observation", "int64", (3,)),
        (spaces.Discrete(5), "observation", "int64", ()),
    ],
)
def test_observations_get_their_key(space: spaces.Space[Any], key: str, dtype: str, shape: tuple[int, ...]) -> None:
    env = GymnasiumEnv(Scripted(space), "scripted")
    assert list(env.spec.observation) == [key]
    assert env.spec.observation[key].shape == shape
    assert env.spec.observation[key].dtype == dtype
    for step in (env.reset(seed=0), env.step(np.asarray(0))):
        assert step.observation[key].shape == shape
        assert step.observation[key].dtype == dtype


def test_the_specs_of_a_space_encode_as_the_space_does() -> None:
    for space in (
        box((4,), np.float64),
        spaces.Discrete(3, start=2),
        spaces.Dict({"a": box((2,), np.float64), "b/c": box((4, 4, 3), np.uint8)}),
        spaces.Dict({"deep": spaces.Dict({"b": box((2,), np.float32), "c": spaces.Dict({"d": spaces.Discrete(4)})})}),
    ):
        encoder = ObservationEncoder(space)
        again = ObservationEncoder(encoder.specs)
        observation = space.sample()
        one, other = encoder.encode(observation), again.encode(observation)
        assert one.keys() == other.keys() == encoder.specs.keys()
        for key, spec in encoder.specs.items():
            assert_array_equal(one[key], other[key])
            assert (one[key].shape, str(one[key].dtype)) == (spec.shape, spec.dtype)


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (box((3,), np.float32), np.zeros(1), r"cart: 'state' has shape \(1,\), its spec says \(3,\)"),
        (box((3,), np.float32), np.zeros(3, complex), "'state'.*complex128, its spec says float32"),
        (box((3,), np.float32), None, r"'state' has shape \(\), its spec"),
        (box((3,), np.float32), [[1], [1, 2], [3]], "'state' is no array"),
        (box((3,), np.float32), {"x": np.zeros(3)}, r"keys \['x'\], its spec says \['state'\]"),
        (box((2,), np.uint8), np.array([0.0, 1.0]), r"'observation' is \[0. 1.\] of dtype float64.*uint8"),
        (box((2,), np.uint8), np.array([0, 256]), r"'observation' is \[  0 256\] of dtype int64.*uint8"),
        (
            spaces.Dict({"a": box((2,), np.uint8), "b": box((2,), np.uint8)}),
            {"a": np.zeros(2)},
            r"\['a'\].*\['a', 'b'\]",
        ),
        (spaces.Dict({"deep": spaces.Dict({"a": box((2,), np.uint8)})}), {"deep": {"b": 1}}, "'deep/b'.*'deep/a'"),
    ],
)
def test_what_is_not_of_the_space_is_refused_by_key(space: spaces.Space[Any], observation: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        ObservationEncoder(space, "cart").encode(observation)


def test_numbers_of_another_width_are_taken_where_they_fit() -> None:
    floats, pixels = ObservationEncoder(box((2,), np.float32)), ObservationEncoder(box((2,), np.uint8))
    for value in ([1, 2], np.array([1.0, 2.0]), np.array([1, 2], np.uint8), np.array([1, 2], np.float16)):
        assert_array_equal(floats.encode(value)["state"], np.array([1, 2], np.float32), strict=True)
    for value in ([1, 255], np.array([1, 255], np.int32), np.array([1, 255], np.uint8)):
        assert_array_equal(pixels.encode(value)["observation"], np.array([1, 255], np.uint8), strict=True)


def test_actions_are_decoded_from_the_space_or_its_spec() -> None:
    ids = ActionDecoder(spaces.Discrete(3, start=5))
    assert [ids.decode(np.int64(2)), ActionDecoder(ids.spec).decode(np.int64(2))] == [7, 7]
    wide = spaces.Box(-1.0, 2.0, (2,), np.float64)
    assert ActionDecoder(wide).decode(np.ones(2, np.float32)).dtype == np.float64
    assert wide.contains(ActionDecoder(ActionDecoder(wide).spec).decode(np.ones(2, np.float32)))


def test_dict_observations_pass_through_and_nested_ones_are_joined() -> None:
    space = spaces.Dict({"a": box((2,), np.float64), "deep": spaces.Dict({"b": box((4, 4, 3), np.uint8)})})
    env = GymnasiumEnv(Scripted(space), "scripted")
    observation = env.reset(seed=0).observation
    assert {key: (value.shape, str(value.dtype)) for key, value in observation.items()} == {
        "a": ((2,), "float32"),
        "deep/b": ((4, 4, 3), "uint8"),
    }
    assert set(env.spec.observation) == set(observation)


def test_a_termination_is_terminal_and_a_time_out_is_not() -> None:
    env = GymnasiumEnv(Scripted(box((2,), np.float32)), "scripted")
    first = env.reset(seed=0)
    assert (first.reward, first.is_first, first.is_last, first.is_terminal) == (0.0, True, False, False)
    middle = env.step(np.asarray(0))
    assert (middle.reward, middle.is_first, middle.is_last, middle.is_terminal) == (1.5, False, False, False)
    end = env.step(np.asarray(2))
    assert (end.is_last, end.is_terminal) == (True, True)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.asarray(0))
    env.reset()
    ends = [env.step(np.asarray(0)) for _ in range(3)]
    assert [(step.is_last, step.is_terminal) for step in ends] == [(False, False), (False, False), (True, False)]


def test_discrete_actions_are_ids_from_zero() -> None:
    scripted = Scripted(box((2,), np.float32), spaces.Discrete(3, start=5))
    env = GymnasiumEnv(scripted, "scripted")
    assert env.spec.action == ArraySpec((), "int64", 5, 7, 3)
    env.reset(seed=0)
    env.step(np.asarray(1))
    assert scripted.actions == [6]


def test_continuous_actions_keep_the_dtype_of_the_space() -> None:
    scripted = Scripted(box((2,), np.float32), spaces.Box(-1.0, np.array([1.0, 2.0]), dtype=np.float64))
    env = GymnasiumEnv(scripted, "scripted")
    assert env.spec.action == ArraySpec((2,), "float32", -1.0, (1.0, 2.0))
    env.reset(seed=0)
    env.step(np.array([0.5, 1.5], np.float32))
    assert scripted.actions[0].dtype == np.float64


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        ("gym:CartPole-v1", np.int64(2), r"\[0, 1\], got 2"),
        ("gym:CartPole-v1", np.int64(-1), "got -1"),
        ("gym:CartPole-v1", np.float32(1.0), "float32"),
        ("gym:CartPole-v1", np.zeros(1, np.int64), r"\(1,\)"),
        ("gym:Pendulum-v1", np.array([np.nan], np.float32), "nan"),
        ("gym:Pendulum-v1", np.array([2.1], np.float32), "2.1"),
        ("gym:Pendulum-v1", np.zeros(2, np.float32), r"\(2,\)"),
        ("gym:Pendulum-v1", np.array(["left"]), "left"),
    ],
)
def test_invalid_actions_are_refused(name: str, action: Any, message: str) -> None:
    env = make_env(name)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


def test_unbounded_actions_must_be_finite() -> None:
    check = ActionCheck(ArraySpec((2,), "float32"))
    check(np.array([1e30, -5.0]))
    with pytest.raises(ValueError, match="inf"):
        check(np.array([np.inf, 0.0]))


def test_a_batch_of_actions_names_the_environment() -> None:
    check = ActionCheck(ArraySpec((2,), "float32", -1.0, 1.0))
    check(np.zeros((3, 2)), (3,))
    with pytest.raises(ValueError, match=r"environment 1 .*\[0\. +7\.\]"):
        check(np.array([[0.0, 0.0], [0.0, 7.0], [0.0, 0.0]]), (3,))


def test_cart_pole_and_pendulum_run_to_their_ends() -> None:
    cart = make_env("gym:CartPole-v1")
    assert cart.spec.max_episode_steps == 500
    step = cart.reset(seed=1)
    while not step.is_last:
        step = cart.step(np.asarray(1))
        assert step.observation["state"].dtype == np.float32
    assert step.is_terminal
    pendulum = make_env("gym:Pendulum-v1")
    assert pendulum.spec.action == ArraySpec((1,), "float32", -2.0, 2.0)
    step, count = pendulum.reset(seed=1), 0
    while not step.is_last:
        step = pendulum.step(np.zeros(1, np.float32))
        count += 1
    assert count == 200
    assert not step.is_terminal


def test_every_action_of_a_policy_lies_inside_a_float64_box() -> None:
    space = spaces.Box(np.array([-0.3, 0.1, -1e6 - 0.1]), np.array([0.3, 0.1, 0.7]), dtype=np.float64)
    scripted = Scripted(box((2,), np.float32), space)
    env = GymnasiumEnv(scripted, "scripted")
    rounded = [bound.astype(np.float32) for bound in (space.low, space.high)]  # partly outwards
    for action in (*env.spec.action.box(), *rounded):
        env.reset(seed=0)
        env.step(action)
        assert space.contains(scripted.actions[0])


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_pictures_have_three_channels(shape: tuple[int, ...]) -> None:
    env = Scripted(box((2,), np.float32))
    picture = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    env.render = lambda: picture  # type: ignore[method-assign]
    drawn = GymnasiumEnv(env, "scripted").render()
    assert (drawn.shape, drawn.dtype) == ((4, 5, 3), np.uint8)
    np.testing.assert_array_equal(drawn[..., 0], picture if picture.ndim == 2 else picture[..., 0])


@pytest.mark.parametrize("picture", [None, [], "text", np.zeros((4, 5, 3)), np.zeros((4, 5, 2), np.uint8)])
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    env = Scripted(box((2,), np.float32))
    env.render = lambda: picture  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="scripted draws no pictures"):
        GymnasiumEnv(env, "scripted").render()


class Drawing(Scripted):
    """Declares that it draws."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(box((2,), np.float32))
        self.render_mode = render_mode


class Old(Drawing):
    """Declares it too, and takes no mode."""

    def __init__(self) -> None:
        super().__init__("old")


def strict(render_mode: str | None = None) -> Drawing:
    """Knows another mode only."""
    if render_mode != "human":
        return Drawing("none") if render_mode is None else Drawing(int(render_mode))  # type: ignore[arg-type]
    return Drawing(render_mode)


@pytest.mark.parametrize(
    ("entry_point", "mode"),
    [
        (Drawing, "rgb_array"),
        ("tests.envs.test_adapters:Drawing", "rgb_array"),
        (Old, "old"),
        (lambda **options: Drawing(**options), "rgb_array"),
        (lambda: Drawing(), None),
        (strict, "none"),
    ],
)
def test_environments_that_draw_are_asked_to(entry_point: Any, mode: str | None) -> None:
    gym.register("Drawn-v0", entry_point)
    try:
        for name in ("gym:Drawn-v0", "gym:tests.envs.test_adapters:Drawn-v0"):
            assert make_bare_env(name).unwrapped.render_mode == mode
    finally:
        del gym.registry["Drawn-v0"]


def test_options_reach_the_environment() -> None:
    scripted = Scripted(box((2,), np.float32))
    GymnasiumEnv(scripted, "scripted").reset(seed=0, options={"wind": 2})
    assert scripted.options == {"wind": 2}


def test_metrics_are_those_the_environment_declares() -> None:
    assert GymnasiumEnv(Scripted(box((2,), np.float32)), "scripted").spec.metrics == {"cost": "sum"}
    assert make_env("nav3d").spec.metrics == {"cost": "sum", "collision": "sum", "is_success": "last"}
    assert make_env("gym:CartPole-v1").spec.metrics == {}
    assert make_env("gym:CartPole-v1", metrics={"is_success": "last"}).spec.metrics == {"is_success": "last"}
    with pytest.raises(ValueError, match="metric 'cost' of gym:CartPole-v1 must be one of last, sum, mean, got 'summ'"):
        make_env("gym:CartPole-v1", metrics={"cost": "summ"})


def test_an_attribute_of_that_name_with_another_meaning_is_left_alone() -> None:
    for other in ([1, 2], {"loss": 0.5}, {}):
        env = Scripted(box((2,), np.float32))
        env.metrics = other  # type: ignore[assignment]
        assert GymnasiumEnv(env, "scripted").spec.metrics == {}
    env.info_keys = ("cost",)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"info_keys.*metrics"):
        GymnasiumEnv(env, "scripted")


def test_spaces_without_an_array_form_are_refused() -> None:
    with pytest.raises(ValueError, match="Text"):
        GymnasiumEnv(Scripted(spaces.Text(5)), "scripted")
    with pytest.raises(ValueError, match="MultiDiscrete"):
        GymnasiumEnv(Scripted(box((2,), np.float32), spaces.MultiDiscrete([2, 3])), "scripted")


def test_equal_seeds_give_equal_episodes() -> None:
    first, second = make_env("gym:Pendulum-v1"), make_env("gym:Pendulum-v1")
    for env_a, env_b in [(first.reset(seed=5), second.reset(seed=5)), (first.reset(), second.reset())]:
        assert_array_equal(env_a.observation["state"], env_b.observation["state"])


def test_pictures_of_pygame_come_without_words_of_sound_cards_and_screens() -> None:
    code = (
        "from envs.registry import make_env; env = make_env('gym:CartPole-v1'); env.reset(1); print(env.render().shape)"
    )
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("SDL_", "XDG_", "DISPLAY"))}
    done = subprocess.run([sys.executable, "-c", code], env=quiet, capture_output=True, text=True, check=True)
    assert done.stdout == "(400, 600, 3)\n"
    assert "ALSA" not in done.stderr
    assert "XDG" not in done.stderr
