"""Configuration: composition, refusals and round trips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest
import yaml

from cluster import config as module
from cluster.config import (
    PRESET_KINDS,
    RENAMED,
    build_run,
    override,
    parse_override,
    preset_names,
    resolve,
    to_yaml,
    tuned_algorithms,
)
from cluster.reader import read_yaml
from cluster.tree import build, drop_others, merge, to_tree
from planners.config import MctsConfig, PlannerConfig


@dataclass(frozen=True)
class Tides:
    name: Literal["tides"] = "tides"
    height: float = 1.0


@dataclass(frozen=True)
class Winds:
    name: Literal["wind_v1", "wind_v2"] = "wind_v1"
    speed: int = 3


@dataclass(frozen=True)
class Weather:
    """A configuration whose part may be one of two types."""

    seed: int = 0
    part: Tides | Winds = field(default_factory=Tides)


def test_resolve_layers_presets_file_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("learner: {batch_size: 48}\nschedule: {total_steps: 777}\n")
    config = resolve("pets", "nav3d", "laptop", file, ["learner.batch_size=32", "seed=5"])
    assert (config.learner.batch_size, config.schedule.total_steps, config.seed) == (32, 777, 5)


def test_every_combination_of_presets_resolves() -> None:
    for algo in preset_names("algorithms"):
        for env in preset_names("envs"):
            for scale in preset_names("scales"):
                assert resolve(algo, env, scale).algorithm.name == algo
    assert all(preset_names(kind) for kind in PRESET_KINDS)


@pytest.mark.parametrize("name", ["gym:Pendulum-v1", "dmc:walker-walk"])
def test_names_of_a_family_need_no_preset(name: str) -> None:
    assert resolve("pets", name, "debug").env.name == name


def test_racing_is_evaluated_on_gymnasium() -> None:
    for name in ("car_racing", "car_racing_discrete"):
        env = resolve("pets", name, "debug", overrides=["env.options.action_repeat=4"]).env
        assert env.name == name
        assert env.options == {"backend": "auto", "action_repeat": 4}
        assert env.eval_options == {"backend": "gymnasium"}


def test_yaml_round_trip() -> None:
    config = resolve("pets", "nav3d", "debug", overrides=["env.options.layout=random"])
    assert build_run(read_yaml(to_yaml(config), "text")) == config
    assert to_tree(config)["env"]["options"] == {"layout": "random"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.batch_sise=3"], r"unknown configuration key 'learner.batch_sise' \(did you mean 'batch_size'\?\)"),
        (["learnr.batch_size=3"], r"unknown configuration key 'learnr' \(did you mean 'learner'\?\)"),
        (["learner.batch_size=many"], r"learner.batch_size must be an integer, got 'many'"),
        (["learner.batch_size=0"], r"batch_size must be at least 1, got 0"),
        (["learner=3"], r"learner must be a mapping"),
        (["seed"], r"override 'seed' is not of the form"),
        (["cluster.mode=cloud"], r"cluster.mode must be 'ray' or 'local', got 'cloud'"),
        (["roles.rolout.count=2"], r"unknown configuration key 'roles.rolout' \(did you mean 'rollout'\?\)"),
        (["roles.rollout.cont=2"], r"unknown configuration key 'roles.rollout.cont' \(did you mean 'count'\?\)"),
        (["roles.replay.count=2"], r"unknown configuration key 'roles.replay.count'"),
        (["roles.rollout.count=0"], r"roles.rollout.count must be at least 1, got 0"),
        (["roles.rollout=3"], r"roles.rollout must be a mapping of \['count', 'cpus'"),
        (["roles=3"], r"roles must be a mapping of \['evaluator', 'inference'"),
        (["actors.envs_per_actor=0"], r"actors.envs_per_actor must be at least 1, got 0"),
    ],
)
def test_bad_overrides_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve("pets", "nav3d", "laptop", overrides=overrides)


def test_unknown_presets_name_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown algorithm preset 'petz' \(did you mean 'pets'\?\)"):
        resolve("petz", "nav3d", "laptop")
    with pytest.raises(ValueError, match=r"unknown env preset 'nav3e' \(did you mean 'nav3d'\?\)"):
        resolve("pets", "nav3e", "laptop")


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    for text, message in (("a: [1", "not valid YAML"), ("- 1\n", "holds no mapping")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            resolve("pets", "nav3d", "laptop", file)


def test_merge_replaces_leaves_and_keeps_siblings() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    merge(base, {"a": {"b": 3}, "d": [2]})
    assert base == {"a": {"b": 3, "c": 2}, "d": [2]}


def test_a_part_of_several_types_is_chosen_by_its_name() -> None:
    assert build(Weather, {"part": {"name": "wind_v2", "speed": 5}}) == Weather(part=Winds("wind_v2", 5))
    assert build(Weather, {"part": {"name": "tides"}}) == build(Weather, {}) == Weather()
    for config in (Weather(part=Winds("wind_v2")), Weather(4, Tides(height=2.0))):
        assert build(Weather, to_tree(config)) == config


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"name": "winds_v2"},
            r"part.name must be one of tides, wind_v1, wind_v2, got 'winds_v2' \(did you mean 'wind_",
        ),
        ({"name": ["tides"]}, r"part.name must be one of tides, wind_v1, wind_v2"),
        ({"speed": 3}, r"part.speed is a key of name wind_v1, wind_v2; part.name is tides"),
        ({"name": "tides", "heigth": 3}, r"unknown configuration key 'part.heigth' \(did you mean 'height'\?\)"),
        ({"name": "tides", "speed": 3}, r"part.speed is a key of name wind_v1, wind_v2; part.name is tides"),
        ({"name": "wind_v1", "speed": "fast"}, r"part.speed must be an integer, got 'fast'"),
        ("tides", r"part must be a mapping .*'tides'"),
    ],
)
def test_a_part_that_fits_no_type_is_named(tree: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(Weather, {"part": tree})


def test_a_change_of_member_drops_what_its_rivals_alone_have() -> None:
    tree: dict[str, Any] = {"part": {"name": "wind_v2", "speed": 5}}
    drop_others(Weather, tree, {"part": {"name": "tides"}})
    assert tree == {"part": {"name": "wind_v2"}}
    tree = {"part": {"name": "wind_v2", "speed": 5}}
    drop_others(Weather, tree, {"part": {"speed": 6}})
    assert tree == {"part": {"name": "wind_v2", "speed": 5}}


@pytest.mark.parametrize("scale", preset_names("scales"))
@pytest.mark.parametrize("algo", preset_names("algorithms"))
def test_any_planner_goes_with_any_presets(algo: str, scale: str) -> None:
    """Fields that presets set for one method go over to another that has them; the rest is dropped."""
    for member in get_args(PlannerConfig):
        method = member().method
        change = [f"planner.method={method}"]
        config = resolve(algo, "nav3d", scale, overrides=change)
        assert type(config.planner) is member
        stored = resolve(algo, "nav3d", scale)
        changed = override(stored, change, ("planner",))
        assert type(changed.planner) is member
        if not isinstance(stored.planner, MctsConfig):  # a tree keeps none of what a scale gives the others
            assert changed == config


def test_a_field_that_planners_share_has_one_type() -> None:
    """What a preset sets for one method goes over to another."""
    types: dict[str, Any] = {}
    for member in get_args(PlannerConfig):
        for name, hint in get_type_hints(member, include_extras=True).items():
            if name != "method":
                assert types.setdefault(name, hint) == hint, f"{member.__name__}.{name}"


def test_renamed_keys_are_refused_with_their_new_names() -> None:
    for old, new in RENAMED.items():
        with pytest.raises(ValueError, match=rf"{old}' is now called '{new}'"):
            resolve("pets", "nav3d", "debug", overrides=[f"{old}=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=.nan", "seed must be an integer, got nan"),
        ("seed=true", "seed must be an integer, got True"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("seed=1" + "0" * 30, "seed must be an integer of 64 bits"),
        ("seed=[1", "the value of seed is not valid YAML"),
        ("seed=!!python/object/apply:os.getcwd []", "the value of seed is not valid YAML"),
    ],
)
def test_what_cannot_be_meant_as_a_number_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve("pets", "nav3d", "debug", overrides=[override])


def test_numbers_are_read_as_yaml_1_2_has_them() -> None:
    config = resolve("pets", "nav3d", "debug", overrides=["schedule.total_steps=2e3", "env.options.mass=1e1"])
    assert config.schedule.total_steps == 2000
    assert type(config.schedule.total_steps) is int
    assert config.env.options == {"mass": 10.0}


def test_settings_for_an_algorithm_go_over_all_presets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    presets: dict[tuple[str, str], dict[str, Any]] = {
        ("algorithms", "a"): {"learner": {"batch_size": 1, "sequence_length": 11}},
        ("envs", "e"): {
            "env": {"name": "nav3d"},
            "learner": {"batch_size": 2},
            "algorithms": {"a": {"learner": {"batch_size": 4}, "seed": 4}, "b": {"learner": {"batch_size": 40}}},
        },
        ("scales", "s"): {"learner": {"batch_size": 3, "threads": 3}, "algorithms": {"a": {"seed": 5}}},
    }
    monkeypatch.setattr(module, "load_preset", lambda kind, name: yaml.safe_load(yaml.safe_dump(presets[kind, name])))
    config = resolve("a", "e", "s")
    assert (config.seed, config.learner.batch_size, config.learner.threads) == (5, 4, 3)
    assert config.learner.sequence_length == 11
    assert resolve("a", "gym:X-v0", "s").learner.batch_size == 3
    file = tmp_path / "my.yaml"
    file.write_text("seed: 6\n")
    assert resolve("a", "e", "s", file, ["learner.batch_size=8"]).learner.batch_size == 8
    assert resolve("a", "e", "s", file).seed == 6


def test_presets_have_settings_for_algorithms_that_exist() -> None:
    for name, algorithms in tuned_algorithms().items():
        assert set(algorithms) <= set(preset_names("algorithms")), name
    assert "pets" in tuned_algorithms()["laptop"]
    assert tuned_algorithms()["nav3d_image laptop_pixels"] == ["dreamer_v3"]


def test_an_env_has_settings_for_a_scale() -> None:
    assert resolve("dreamer_v3", "nav3d_image", "laptop_pixels").env.options["action_repeat"] == 4
    assert resolve("dreamer_v3", "nav3d_image", "laptop").env.options == {}


def test_override_values_are_yaml() -> None:
    assert parse_override("a.b=[1, 2]") == {"a": {"b": [1, 2]}}
    assert parse_override("a=null") == {"a": None}


def test_a_run_that_continues_may_change_its_elastic_sections_only() -> None:
    config = resolve("pets", "nav3d", "debug")
    changed = override(config, ["replay.num_shards=5", "roles.learner.count=4"])
    assert (changed.replay.num_shards, changed.count("learner")) == (5, 4)
    assert changed.algorithm == config.algorithm
    with pytest.raises(ValueError, match=r"may change keys of actors, cluster, .*, schedule, env.*, not 'seed=1'"):
        override(config, ["seed=1"])
    with pytest.raises(ValueError, match=r"unknown configuration key 'replay.num_shard' \(did you mean 'num_shards'"):
        override(config, ["replay.num_shard=5"])


def test_a_key_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("3: 4\n")
    with pytest.raises(ValueError, match=r"unknown configuration key '3'"):
        resolve("pets", "nav3d", "debug", file)
