"""Waiting for room, without a cluster: groups that become ready when the test says so."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import placement as module
from cluster.config import resolve
from cluster.placement import TELL_SECONDS, Placement


@dataclass
class FakeCluster:
    """Has room for a role from a moment on."""

    ready_at: dict[str, float]  # by the kind of resource that marks the role, s
    now: float = 100.0
    infeasible: bool = False
    groups: list[FakeGroup] = field(default_factory=list)

    def group(self, bundles: list[dict[str, float]], strategy: str, bundle_label_selector: Any = None) -> FakeGroup:
        self.groups.append(FakeGroup(self, bundles, strategy, bundle_label_selector))
        return self.groups[-1]


@dataclass
class FakeGroup:
    cluster: FakeCluster
    bundles: list[dict[str, float]]
    strategy: str
    labels: list[dict[str, str]] | None
    removed: bool = False

    def wait(self, seconds: float) -> bool:
        ready = max(self.cluster.ready_at.get(kind, 0.0) for kind in self.bundles[0])
        if self.cluster.now < ready:
            self.cluster.now += seconds
        return self.cluster.now >= ready


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster({})
    resources = {"CPU": 2.0, "GPU": 0.0, "memory": 1e9}
    monkeypatch.setattr(module, "placement_group", fake.group)
    monkeypatch.setattr(module, "remove_placement_group", lambda group: setattr(group, "removed", True))
    state = lambda group: {"stats": {"scheduling_state": "INFEASIBLE" if fake.infeasible else "NO_RESOURCES"}}  # noqa: E731
    monkeypatch.setattr(module, "placement_group_table", state)
    monkeypatch.setattr(
        module, "ray", SimpleNamespace(cluster_resources=lambda: resources, nodes=lambda: [{"Alive": True}])
    )
    monkeypatch.setattr(module.time, "monotonic", lambda: fake.now)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    return fake


def placement(*overrides: str) -> Placement:
    return Placement(resolve("pets", "nav3d", "debug", overrides=list(overrides)))


def test_each_role_that_reserves_something_has_a_group(cluster: FakeCluster) -> None:
    places = placement("roles.learner.count=2", "roles.replay.labels.role=replay", "roles.replay.memory=1000")
    bundles = [(group.bundles, group.strategy, group.labels) for group in cluster.groups]
    assert bundles == [
        ([{"CPU": 0.1, "memory": 1000}] * 2, "SPREAD", [{"role": "replay"}] * 2),
        ([{"CPU": 0.25}] * 2, "PACK", None),
        ([{"CPU": 0.25}], "SPREAD", None),
        ([{"CPU": 0.25}] * 2, "SPREAD", None),
    ]
    options = places.options("replay", 1)
    assert options["scheduling_strategy"].placement_group is cluster.groups[0]
    assert options["scheduling_strategy"].placement_group_bundle_index == 1
    assert (options["num_cpus"], options["num_gpus"], options["memory"], options["resources"]) == (0.1, 0.0, 1000, {})
    assert "label_selector" not in options
    places.remove()
    assert all(group.removed for group in cluster.groups)


def test_what_reserves_nothing_is_bound_to_nodes_all_the_same(cluster: FakeCluster) -> None:
    options = placement("roles.weights.labels.role=learner").options("weights", 0)
    assert options["label_selector"] == {"role": "learner"}
    assert "scheduling_strategy" not in options


def test_a_run_waits_for_room_and_says_for_what(cluster: FakeCluster, caplog: pytest.LogCaptureFixture) -> None:
    cluster.ready_at["simulators"] = cluster.now + 2.5 * TELL_SECONDS
    caplog.set_level(logging.INFO)
    assert placement("roles.rollout.resources.simulators=1", "roles.rollout.labels.role=x").wait(lambda: False)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    need = "2 x rollout (0.25 CPU, 1 simulators) on nodes with role=x"
    assert lines[0].startswith(f"waiting for room for {need} (1 of 600 s): it has 2 CPU, 0 GPU, 1 GB memory on 1 node")


def test_a_run_waits_no_longer_than_it_may(cluster: FakeCluster) -> None:
    cluster.ready_at["simulators"] = cluster.now + 100
    places = placement("roles.rollout.resources.simulators=1", "cluster.wait_for_resources_seconds=30")
    with pytest.raises(ValueError, match=r"no room for 2 x rollout .* lower roles.rollout.count or what roles.rollout"):
        places.wait(lambda: False)
    assert cluster.now == pytest.approx(130, abs=1)


def test_a_run_that_is_stopped_waits_no_longer(cluster: FakeCluster) -> None:
    cluster.ready_at["CPU"] = cluster.now + 1000
    assert not placement().wait(lambda: cluster.now > 105)
    assert cluster.now < 110


def test_a_cluster_of_ones_own_refuses_at_once(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    cluster.infeasible, cluster.ready_at["simulators"] = True, 1e9
    with pytest.raises(ValueError, match=r"the Ray cluster has no room for 2 x rollout"):
        placement("roles.rollout.resources.simulators=1").wait(lambda: False)
    assert cluster.now < 102
