"""A rollout actor as a plain object: environments that cannot be started, and calls that are stopped at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.rollout import RolloutLoop, RolloutResult
from actors.service import RolloutActor
from envs.contract import ContractError
from envs.faults import SimulatorError


@pytest.mark.parametrize("error", [SimulatorError("broken"), ContractError("toy: 'state' has shape (1,)")])
def test_what_ends_its_start_is_told_by_its_first_call(error: Exception) -> None:
    def make_loop() -> RolloutLoop:
        raise error

    actor = RolloutActor(make_loop, [])
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)[:6]):
            actor.run(64)
    assert actor.flush() == 0
    actor.close()


def test_a_call_that_is_stopped_before_its_first_step_is_told() -> None:
    loop = SimpleNamespace(
        env=None,
        policy=SimpleNamespace(version=3),
        incarnation=0,
        collect=lambda num_ticks, stopping: RolloutResult([], [], steps=0),
    )
    summary = RolloutActor(lambda: cast(Any, loop), []).run(64)
    assert (summary.steps, summary.acknowledged, summary.pending, summary.episodes) == (0, 0, 0, [])
