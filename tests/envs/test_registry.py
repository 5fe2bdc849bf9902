"""Names, options and specs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from envs.registry import ENVIRONMENTS, env_spec, is_prefixed_name, make_env, make_vector_env


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if not name.endswith(":")])
def test_every_name_makes_an_environment_of_that_name(name: str) -> None:
    if name.startswith("car_racing"):
        pytest.importorskip("Box2D")
    env = make_env(name)
    first = env.reset(seed=0)
    assert env.spec.name == name
    assert {key: value.shape for key, value in first.observation.items()} == {
        key: spec.shape for key, spec in env.spec.observation.items()
    }
    env.close()


def test_specs_follow_the_options() -> None:
    assert env_spec("nav3d").observation["state"].shape == (9,)
    assert "lidar" not in env_spec("nav3d").observation
    assert env_spec("nav3d", layout="random").observation["lidar"].shape == (26,)
    assert env_spec("nav3d", max_episode_steps=50).max_episode_steps == 50
    assert env_spec("nav3d").step_seconds == 0.1
    assert env_spec("nav3d_image", image_size=32, grey=True).observation["image"].shape == (32, 32, 1)
    assert env_spec("nav3d_creature").observation["state"].shape == (7,)
    assert env_spec("gym:worldfleet/Nav3D-v0").max_episode_steps == 200


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nav3", {}, "did you mean 'nav3d'"),
        ("gmy:CartPole-v1", {}, "gym:<id>"),
        ("gym:CartPoll-v1", {}, "CartPole"),
        ("gym:CartPole-v1", {"gravity": 3}, "gravity"),
        ("nav3d", {"layuot": "fixed"}, "did you mean 'layout'"),
        ("nav3d", {"image_size": 32}, "image_size"),
        ("nav3d_image", {"image_sise": 32}, "did you mean 'image_size'"),
        ("nav3d_image", {"view": "topdown"}, "did you mean 'top_down'"),
    ],
)
def test_mistakes_name_the_nearest(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env(name, **options)


def test_unknown_vector_modes_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'serial'"):
        make_vector_env("nav3d", 2, "seriel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_envs"):
        make_vector_env("nav3d", 0)
    with pytest.raises(ValueError, match="num_workers"):
        make_vector_env("nav3d", 2, "subprocess", num_workers=0)


def test_prefixed_names_have_a_known_prefix() -> None:
    assert is_prefixed_name("gym:CartPole-v1")
    assert is_prefixed_name("dmc:walker-walk")
    assert not is_prefixed_name("nav3d")
    assert not is_prefixed_name("gym")
    assert not is_prefixed_name("gmy:CartPole-v1")


def test_the_registry_imports_no_simulator() -> None:
    code = "import sys, envs.registry; assert not {'mujoco', 'gymnasium'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("error", [RuntimeError("no licence\nat all"), SystemExit(3)])
def test_a_simulator_that_cannot_be_made_is_told_in_one_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("envs.testing.counter.CounterEnv.__init__", fail)
    with pytest.raises(
        ValueError, match=r"cannot make 'gym:.*Counter-v0': (RuntimeError: no licence at all|SystemExit: 3)$"
    ):
        make_env("gym:envs.testing.counter:WorldfleetCounter-v0")
