"""Checkpoints whose parts come, fail, or are not there yet, from calls that are their answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from actors.replay.flow.batches import ShardUnavailable
from cluster import saving as module
from cluster.saving import Saving


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Any:
    world = SimpleNamespace(there=True, complete=True, error=None, committed=[], retained=[])

    def get(calls: list[Any]) -> list[Any]:
        if world.error is not None:
            raise world.error
        return calls

    wait = lambda calls, num_returns, timeout: (calls if world.there else [], [])  # noqa: E731
    monkeypatch.setattr(module, "ray", SimpleNamespace(wait=wait, get=get))
    checkpoints: Any = SimpleNamespace(
        next_name=lambda step: f"step_{step}",
        commit=lambda step, parts: world.committed.append((step, parts)),
        names=lambda: ["step_5"],
    )
    fleet: Any = SimpleNamespace(
        complete=lambda name: world.complete,
        begin_checkpoint=lambda name: ["learner", "shard 0", "shard 1"],
        retain=lambda names: world.retained.append(names) or ["retaining"],
    )
    world.saving = Saving(checkpoints, fleet)
    return world


def test_a_checkpoint_is_committed_when_all_its_parts_are_there(world: Any) -> None:
    saving = world.saving
    assert not saving.end()
    world.complete = False
    assert not saving.begin(5, {"limiter": 1})
    world.complete, world.there = True, False
    assert saving.begin(5, {"limiter": 1})
    assert saving.begin(6, {"limiter": 2})  # one at a time
    assert not saving.end()
    world.there = True
    assert saving.end()
    assert world.committed == [(5, {"learner": "learner", "replay": {"manifest": "step_5"}, "limiter": 1})]
    assert world.retained == [["step_5"]]
    assert not saving.end()


@pytest.mark.parametrize(
    "error",
    [
        RayActorError(),
        RayTaskError("checkpoint_wait", "", ShardUnavailable("shard 0 was restarted")).as_instanceof_cause(),
    ],
)
def test_one_whose_learner_or_shard_was_lost_is_given_up(
    world: Any, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.saving.begin(5, {})
    world.error = error
    assert not world.saving.end()
    assert world.saving.pending is None
    assert caplog.records[-1].message.startswith("checkpoint step_5 is given up: ")
    assert not world.committed
    world.error = None
    assert world.saving.begin(6, {})
    assert world.saving.end()


def test_a_full_disk_ends_the_run(world: Any) -> None:
    world.saving.begin(5, {})
    world.error = RayTaskError("checkpoint_wait", "", OSError(28, "No space left")).as_instanceof_cause()
    with pytest.raises(OSError, match="No space left") as raised:
        world.saving.end()
    assert not isinstance(raised.value, RayTaskError)
