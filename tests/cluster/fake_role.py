"""A toy role: actors that say how often they were asked. One record, and what it names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from cluster.fleet import Fleet
from cluster.launch import Run
from cluster.leases import Task, Work
from cluster.role_config import RoleConfig
from cluster.roles import ROLES, Death, Role, configured
from envs.numbers import PositiveInt


@dataclass(frozen=True)
class PingerConfig(RoleConfig):
    """The section `roles.pinger`."""

    cpus: float = 0.05
    stride: PositiveInt = 1  # what a ping counts


class PingerActor:
    """Counts pings."""

    def __init__(self, stride: int) -> None:
        self._stride, self._count = stride, 0

    def ping(self) -> int:
        """Pings so far, times the stride."""
        self._count += 1
        return self._stride * self._count


def start(fleet: Fleet, index: int, options: dict[str, Any]) -> Any:
    import ray

    section = fleet.config.roles["pinger"]
    assert isinstance(section, PingerConfig)
    actor: Any = ray.remote(PingerActor)
    return actor.options(**options).remote(section.stride)


def issue(run: Run) -> None:
    """One ping at a time to each."""
    busy = {task.index for task in run.tasks("pinger")}
    for index, actor in enumerate(run.fleet.actors["pinger"]):
        if actor and index not in busy:
            run.send(actor.ping.remote(), "pinger", index)


def book(run: Run, task: Task, count: int) -> None:
    run.recorder.add({f"count_{task.index}": float(count)}, "pinger/")


PINGER = Role("pinger", PingerConfig(), configured, start, Death.REPLACE, Work(issue, book))


def install(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Add the role to the table for one test."""
    monkeypatch.setitem(ROLES, "pinger", replace(PINGER, **changes))
