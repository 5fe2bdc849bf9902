"""The watch over a fleet of actors that only have names: whom it pings, kills, reports and forgives."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from cluster import liveness as module
from cluster.config import resolve
from cluster.liveness import Liveness, limits
from cluster.roles import ROLES
from cluster.supervise import BudgetSpent


@dataclass
class World:
    """What Ray would know."""

    now: float = 0.0
    beating: set[str] = field(default_factory=set)
    working: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)  # do not answer a ping
    restarts: dict[str, int] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)  # their next ping fails
    killed: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def get(self, name: str) -> str:
        if name in self.failing:
            self.failing.remove(name)
            raise RayActorError
        return name


class Actor:
    def __init__(self, name: str) -> None:
        self.name = name
        self._actor_id = SimpleNamespace(hex=lambda: name)
        self.ping = SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda: name))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    def table(name: str) -> dict[str, Any]:
        state = "DEAD" if name in world.dead else "ALIVE"
        return {"State": state, "NumRestarts": world.restarts.get(name, 0)}

    ray = SimpleNamespace(
        wait=lambda calls, timeout: ([call for call in calls if call not in world.hung], []),
        get=world.get,
        kill=lambda actor, **options: world.killed.append((actor.name, options)),
    )
    monkeypatch.setattr(module, "ray", ray)
    monkeypatch.setattr(module, "state", SimpleNamespace(actors=table))
    monkeypatch.setattr(module.time, "monotonic", lambda: world.now)
    monkeypatch.setattr(module, "Watch", lambda: module_watch(lambda: world.now))
    monkeypatch.setattr(
        module,
        "read_pulses",
        lambda names: {
            name: (int(world.now), int(world.now) if name in world.working else 7)
            for name in names
            if name in world.beating
        },
    )
    return world


module_watch = module.Watch


@pytest.fixture
def fleet(world: World) -> Any:
    actors = {name: [] for name in ROLES} | {
        "replay": [Actor("replay-0"), Actor("replay-1")],
        "learner": [Actor("learner-0")],
        "rollout": [Actor("rollout-0.3"), None],
    }
    world.beating |= {"learner-0", "rollout-0.3"}
    world.working |= world.beating
    return SimpleNamespace(actors=actors, ray_names={("learner", 0): "learner-0", ("rollout", 0): "rollout-0.3"})


@pytest.fixture
def watched(world: World, fleet: Any) -> Liveness:
    config = resolve("pets", "nav3d", "debug", overrides=["actors.restarts=2", "roles.learner.timeout_seconds=20"])
    return Liveness(config, fleet, lambda part, reason: world.notes.append((part, reason)))


def look(watched: Liveness, world: World, seconds: int) -> list[str]:
    """Look each second until somebody is to be replaced; who that is."""
    for _ in range(seconds):
        world.now += 1.0
        if hangs := watched.look({("rollout", 0), ("learner", 0)}):
            return [f"{hang.role.name}-{hang.index} {hang.reason}" for hang in hangs]
    return []


def test_actors_that_beat_work_and_answer_are_left_alone(world: World, watched: Liveness) -> None:
    assert look(watched, world, 500) == []
    assert not world.killed
    assert not world.notes


def test_a_learner_that_is_silent_is_for_the_driver_to_replace(world: World, watched: Liveness, fleet: Any) -> None:
    look(watched, world, 10)
    world.beating.remove("learner-0")
    assert look(watched, world, 500) == ["learner-0 has not answered for 21 s"]
    fleet.actors["learner"][0] = None  # as the driver does
    assert look(watched, world, 500) == []


def test_a_hung_shard_is_killed_so_that_ray_starts_it_again(
    world: World, watched: Liveness, caplog: pytest.LogCaptureFixture
) -> None:
    look(watched, world, 10)
    world.hung.add("replay-1")
    world.working.clear()  # all wait for it
    assert look(watched, world, 70) == []
    assert world.killed == [("replay-1", {"no_restart": False})]
    assert len(world.notes) == 1
    assert [record.message for record in caplog.records] == ["replay-1 has not answered for 61 s; it is replaced"]
    world.hung.remove("replay-1")
    world.failing.add("replay-1")
    world.restarts["replay-1"] = 1
    assert look(watched, world, 30) == []
    assert len(world.notes) == 1  # it was told already
    (told,) = look(watched, world, 700)
    assert told == "rollout-0 has not answered for 121 s (its process lives, its work does not go on)"


def test_a_shard_that_ray_restarts_is_told_and_one_that_is_dead_for_good_ends_the_run(
    world: World, watched: Liveness, caplog: pytest.LogCaptureFixture
) -> None:
    look(watched, world, 10)
    world.restarts["replay-0"] = 1
    world.failing.add("replay-0")
    assert look(watched, world, 20) == []
    assert world.notes == [("replay-0", "died")]
    assert caplog.records[-1].message == "replay-0 died; it is replaced (1 of 2 restarts)"
    world.restarts["replay-0"] = 2
    world.dead.add("replay-0")
    world.failing.add("replay-0")
    with pytest.raises(BudgetSpent, match="replay-0 died 3 times, 2 restarts are allowed"):
        look(watched, world, 20)
    with pytest.raises(BudgetSpent, match="replay-0"):
        watched.check_restarted()


def test_every_role_has_a_limit_that_can_be_switched_off() -> None:
    config = resolve("pets", "nav3d", "debug")
    assert {limits(config, role).silent for role in ROLES.values()} == {60.0}
    assert limits(config, ROLES["rollout"]).stuck == 120.0
    off = resolve("pets", "nav3d", "debug", overrides=["env.step_timeout_seconds=0", "roles.replay.timeout_seconds=0"])
    assert limits(off, ROLES["rollout"]).stuck == float("inf")
    assert limits(off, ROLES["replay"]).silent == float("inf")
    with pytest.raises(ValueError, match=r"roles\.learner\.timeout_seconds"):
        resolve("pets", "nav3d", "debug", overrides=["roles.learner.timeout_seconds=-1"])
