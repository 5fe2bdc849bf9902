"""When dead actors come back, without a cluster: every role starts actors that only have names."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.replay.store.layout import open_layout
from cluster import fleet as module
from cluster.config import resolve
from cluster.fleet import Fleet
from cluster.leases import Task
from cluster.roles import ROLES
from cluster.run_dir import RunDir
from cluster.supervise import BudgetSpent


class FakeActor:
    """A handle whose calls are their answers."""

    def __init__(self, options: dict[str, Any], log: list[str]) -> None:
        self.name, self.options = options["name"], options
        self.stats = SimpleNamespace(remote=lambda: {"inserted_steps": 0.0})
        self.next_steps = SimpleNamespace(remote=dict)
        self.close = SimpleNamespace(remote=lambda: log.append(f"close {self.name}"))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of the actors."""
    notes: list[str] = []
    fake = SimpleNamespace(
        kill=lambda actor: notes.append(f"kill {actor.name}"),
        get=lambda calls: calls,
        wait=lambda calls, **options: (calls, []),
    )
    monkeypatch.setattr(module, "ray", fake)
    monkeypatch.setattr(module, "forget_pulses", lambda: None)
    for name, role in ROLES.items():
        join = None if role.join is None else lambda fleet: [f"join {one.name}" for one in fleet.actors["learner"]]
        start = lambda fleet, index, options: FakeActor(options, notes)  # noqa: E731
        monkeypatch.setitem(ROLES, name, replace(role, factory=start, join=join))
    return notes


@pytest.fixture
def fleet(log: list[str], now: list[float], tmp_path: Path) -> Fleet:
    overrides = ["actors.restarts=2", "roles.learner.count=2", "schedule.eval_every=500"]
    placement: Any = SimpleNamespace(options=lambda name, index: {"place": (name, index)})
    config = resolve("pets", "nav3d", "debug", overrides=overrides)
    fleet = Fleet(config, RunDir(tmp_path), None, placement, config.stages)
    assert fleet.names() == ["weights-0", "replay-0", "replay-1", "learner-0", "learner-1"]
    fleet.start_collecting(fleet.ask_shards())
    assert [call for _, call in fleet.restart_due()] == ["join learner-0", "join learner-1"]
    return fleet


@pytest.mark.parametrize("algo", ["pets", "dreamer_v3"])
def test_factories_fit_their_actors(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would take the options, and each constructor its arguments."""
    import ray

    take = ray.remote

    def remote(cls: type | None = None, **decorated: Any) -> Any:
        if cls is None:
            return lambda cls: remote(cls, **decorated)
        actor = take(**decorated)(cls) if decorated else take(cls)
        bind = SimpleNamespace(remote=inspect.signature(cls).bind)
        return SimpleNamespace(options=lambda **options: actor.options(**options) and bind)

    monkeypatch.setattr(ray, "remote", remote)
    overrides = ["roles.inference.count=1", "schedule.eval_every=500", "cluster.ledger=true"]
    config = resolve(algo, "nav3d", "debug", overrides=overrides)
    options = {"name": "x", "num_cpus": 0.1, "num_gpus": 0.0, "memory": 0, "resources": {}, "max_restarts": 1}
    fleet: Any = SimpleNamespace(
        config=config,
        weights="weights",
        ray_names={("weights", 0): "weights-0"},
        incarnation=3,
        ledgers=tmp_path,
        bundles=tmp_path,
    )
    fleet.layout = open_layout(tmp_path / "replay", config.replay)
    fleet.actors = {name: [f"{name}-{index}" for index in range(config.count(name))] for name in ROLES}
    started = {name: role.factory(fleet, 0, options) for name, role in ROLES.items() if config.count(name)}
    serving = "planner" if algo == "pets" else "inference"
    assert set(started) == {"weights", "replay", "learner", "rollout", "evaluator", serving}
    assert started["rollout"].arguments["weights"] is None  # the server has them
    assert started["rollout"].arguments["make_ledger"].args == (tmp_path / "rollout-0.3.txt", False)
    assert started[serving].arguments["name"] == f"{serving}-0"


def names(fleet: Fleet, role: str) -> list[str | None]:
    return [None if actor is None else actor.name for actor in fleet.actors[role]]


def test_all_start_but_what_is_dropped_when_it_dies(fleet: Fleet) -> None:
    started = "weights-0 replay-0 replay-1 learner-0 learner-1 planner-0 rollout-0 rollout-1"
    assert fleet.names() == started.split()
    assert fleet.actors["replay"][1].options == {
        "name": "replay-1",
        "place": ("replay", 1),
        "max_restarts": 2,
        "max_task_retries": -1,
    }
    assert fleet.actors["rollout"][1].options == {"name": "rollout-1", "place": ("rollout", 1)}
    assert fleet.actor("evaluator", 0) is fleet.actor("evaluator", 0)
    assert fleet.names()[-1] == "evaluator-0"


def test_one_is_replaced_when_it_is_due_and_the_others_go_on(fleet: Fleet, now: list[float], log: list[str]) -> None:
    fleet.died(ROLES["rollout"], 1, "killed")
    assert names(fleet, "rollout") == ["rollout-0", None]
    assert not fleet.complete("rollout")
    assert fleet.seconds_to_restart() == pytest.approx(0.1)
    assert fleet.restart_due() == []
    assert names(fleet, "rollout") == ["rollout-0", None]
    now[0] += 0.11
    assert fleet.restart_due() == []  # it needs no other call to begin
    assert names(fleet, "rollout") == ["rollout-0", "rollout-1.1"]
    assert fleet.actors["rollout"][1].options["place"] == ("rollout", 1)
    assert (fleet.incarnation, fleet.seconds_to_restart()) == (1, math.inf)
    assert log == ["kill rollout-1"]


def test_a_group_starts_again_as_a_whole(fleet: Fleet, now: list[float], log: list[str]) -> None:
    fleet.died(ROLES["learner"], 1, "killed")
    assert names(fleet, "learner") == [None, None]
    assert log == ["kill learner-0", "kill learner-1"]
    now[0] += 0.11
    learner = ROLES["learner"]
    assert fleet.restart_due() == [
        (Task(learner, 0), "join learner-0.1"),
        (Task(learner, 1), "join learner-1.1"),
    ]
    assert fleet.complete("learner")


def test_waits_grow_and_the_budget_ends(fleet: Fleet, now: list[float]) -> None:
    rollout = ROLES["rollout"]
    for wait in (0.1, 0.2):
        fleet.died(rollout, 0, "killed")
        assert fleet.seconds_to_restart() == pytest.approx(wait)
        now[0] += wait + 0.01
        fleet.restart_due()
    fleet.died(rollout, 1, "killed")  # has a budget of its own
    with pytest.raises(BudgetSpent, match="rollout-0 died 3 times, 2 restarts are allowed: killed"):
        fleet.died(rollout, 0, "killed")


def test_what_is_dropped_costs_no_budget_and_starts_with_its_next_work(fleet: Fleet) -> None:
    for start in range(4):
        assert fleet.actor("evaluator", 0).name == ("evaluator-0" + (f".{start}" if start else ""))
        fleet.died(ROLES["evaluator"], 0, "killed")
        assert fleet.restart_due() == []
        assert names(fleet, "evaluator") == [None]


def test_simulators_are_closed_before_actors_are_killed(fleet: Fleet, log: list[str]) -> None:
    fleet.actor("evaluator", 0)
    fleet.died(ROLES["rollout"], 0, "killed")
    log.clear()
    names = fleet.names()
    fleet.stop()
    assert log[:2] == ["close rollout-1", "close evaluator-0"]
    kills = [line.removeprefix("kill ") for line in log[2:]]
    assert kills == names
    assert fleet.names() == []
    assert len(kills) == 8
