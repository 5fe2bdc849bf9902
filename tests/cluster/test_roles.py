"""The table of roles: sections, counts, reservations, and a role that one record adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.config import RunConfig, build_run, override, resolve, to_yaml
from cluster.placement import share_gpus
from cluster.reader import read_yaml
from cluster.role_config import ServingConfig
from cluster.roles import ROLES, Death, serving_role
from learner.algorithms.dreamer_config import DreamerConfig
from tests.cluster import fake_role


def acting_by_a_network(config: RunConfig) -> RunConfig:
    """The run with an algorithm that has no planner."""
    return replace(config, algorithm=DreamerConfig())


@pytest.mark.parametrize(
    ("change", "role", "num_actors", "max_rows", "cpus"),
    [(lambda config: config, "planner", 3, 8, 13.45), (acting_by_a_network, "inference", 2, 9, 10.45)],
)
def test_an_algorithm_is_served_by_actors_of_its_kind(
    change: Callable[[RunConfig], RunConfig], role: str, num_actors: int, max_rows: int, cpus: float
) -> None:
    overrides = ["roles.planner.count=3", "roles.planner.max_rows=8", "roles.planner.cpus=3"]
    overrides += ["roles.inference.count=2", "roles.inference.max_rows=9", "roles.inference.cpus=3"]
    config = change(resolve("pets", "nav3d", "laptop", overrides=[*overrides, "roles.learner.count=16"]))
    section = config.roles[role]
    assert isinstance(section, ServingConfig)
    assert (serving_role(config), config.count(role), section.max_rows) == (role, num_actors, max_rows)
    assert config.count({"planner": "inference", "inference": "planner"}[role]) == 0
    assert config.reserved_cpus == pytest.approx(cpus)  # 0.25 for a rollout actor or rank, 0.1 for a shard


def test_without_a_planner_the_policy_runs_in_the_rollout_actors() -> None:
    config = resolve("pets", "nav3d", "laptop")
    assert config.count("planner") == 1
    assert acting_by_a_network(config).count("inference") == 0


def test_every_part_of_a_small_run_fits_two_cores() -> None:
    for scale in ("debug", "laptop", "laptop_pixels"):
        assert resolve("pets", "nav3d", scale, overrides=["schedule.eval_every=100"]).reserved_cpus < 2


@pytest.mark.parametrize(
    ("available", "learner", "inference"),
    [(0, 0.0, 0.0), (1, 1.0, 0.0), (2, 1.0, 0.0), (3, 1.0, 1.0)],
)
def test_inference_actors_get_the_gpus_that_learners_leave(available: int, learner: float, inference: float) -> None:
    config = acting_by_a_network(resolve("pets", "nav3d", "laptop", overrides=["roles.inference.count=2"]))
    shared = share_gpus(config, available)
    assert (shared["learner"], shared["inference"], shared["rollout"]) == (learner, inference, 0.0)


def test_gpus_that_are_asked_for_are_reserved_whatever_the_cluster_has() -> None:
    config = resolve("pets", "nav3d", "laptop", overrides=["roles.planner.gpus=0.3", "roles.learner.gpus=0.7"])
    assert share_gpus(config, 0.0)["learner"] == 0.7
    config = resolve("pets", "nav3d", "laptop", overrides=["roles.planner.gpus=0.3"])
    assert share_gpus(config, 1.0) == {**dict.fromkeys(ROLES, 0.0), "planner": 0.3}  # no whole GPU is left


def test_ranks_share_a_batch_evenly() -> None:
    with pytest.raises(ValueError, match=r"batch_size 64 must be a multiple of roles.learner.count 3"):
        resolve("pets", "nav3d", "laptop", overrides=["roles.learner.count=3"])


def test_a_role_may_be_bound_to_nodes() -> None:
    config = resolve(
        "pets", "nav3d", "laptop", overrides=["roles.replay.labels.role=replay", "roles.replay.memory=1e9"]
    )
    assert config.roles["replay"].labels == {"role": "replay"}
    assert config.roles["replay"].memory == 1_000_000_000
    assert ROLES["replay"].section.labels == {}


def test_one_record_adds_a_role_to_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"unknown configuration key 'roles.pinger'"):
        resolve("pets", "nav3d", "debug", overrides=["roles.pinger.count=2"])
    fake_role.install(monkeypatch)
    config = resolve("pets", "nav3d", "debug", overrides=["roles.pinger.count=2", "roles.pinger.stride=5"])
    assert config.count("pinger") == 2
    assert config.roles["pinger"] == fake_role.PingerConfig(count=2, stride=5)
    assert config.reserved_cpus == pytest.approx(resolve("pets", "nav3d", "debug").reserved_cpus + 0.05)
    assert build_run(read_yaml(to_yaml(config), "text")) == config
    assert override(config, ["roles.pinger.count=3"]).count("pinger") == 3
    with pytest.raises(ValueError, match=r"roles.pinger.stride must be at least 1, got 0"):
        resolve("pets", "nav3d", "debug", overrides=["roles.pinger.stride=0"])


def test_roles_that_the_driver_replaces_have_work() -> None:
    for role in ROLES.values():
        assert (role.work is None) == (role.death is Death.RESTART), role.name
