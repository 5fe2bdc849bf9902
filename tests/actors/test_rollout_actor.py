"""A rollout actor whose environments cannot be started, as a plain object."""

from __future__ import annotations

import pytest

from actors.rollout import RolloutLoop
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
