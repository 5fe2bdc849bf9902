"""Configuration: composition, refusals and round trips."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.config import (
    PRESET_KINDS,
    RunConfig,
    build,
    merge,
    override,
    parse_override,
    preset_names,
    resolve,
    to_tree,
    to_yaml,
)


def test_resolve_layers_presets_file_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("learner: {batch_size: 48}\nschedule: {total_steps: 777}\n")
    config = resolve("pets", "nav3d", "laptop", file, ["learner.batch_size=32", "seed=5"])
    assert (config.learner.batch_size, config.schedule.total_steps, config.seed) == (32, 777, 5)


def test_every_combination_of_presets_resolves() -> None:
    for algo in preset_names("algorithms"):
        for env in preset_names("envs"):
            for scale in preset_names("scales"):
                assert resolve(algo, env, scale).algorithm.name == algo.partition("_")[0]
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
    assert build(RunConfig, yaml.safe_load(to_yaml(config))) == config
    assert to_tree(config)["env"]["options"] == {"layout": "random"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.batch_sise=3"], r"unknown configuration key 'learner.batch_sise' \(did you mean 'batch_size'\?\)"),
        (["learnr.batch_size=3"], r"unknown configuration key 'learnr' \(did you mean 'learner'\?\)"),
        (["learner.batch_size=many"], r"learner.batch_size: .*integer.*'many'"),
        (["learner.batch_size=0"], r"batch_size must be at least 1, got 0"),
        (["learner=3"], r"learner must be a mapping"),
        (["seed"], r"override 'seed' is not of the form"),
        (["cluster.mode=cloud"], r"cluster.mode: .*'ray' or 'local'.*'cloud'"),
        (["actors.rollout_actors=0"], r"actors.rollout_actors must be at least 1, got 0"),
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


def test_override_values_are_yaml() -> None:
    assert parse_override("a.b=[1, 2]") == {"a": {"b": [1, 2]}}
    assert parse_override("a=null") == {"a": None}


def test_a_run_that_continues_may_change_its_elastic_sections_only() -> None:
    config = resolve("pets", "nav3d", "debug")
    changed = override(config, ["replay.num_shards=5", "cluster.learner_ranks=3"])
    assert (changed.replay.num_shards, changed.cluster.learner_ranks) == (5, 3)
    assert changed.algorithm == config.algorithm
    with pytest.raises(ValueError, match=r"may change keys of actors, cluster, replay, schedule, not 'seed=1'"):
        override(config, ["seed=1"])
    with pytest.raises(ValueError, match=r"unknown configuration key 'replay.num_shard' \(did you mean 'num_shards'"):
        override(config, ["replay.num_shard=5"])
