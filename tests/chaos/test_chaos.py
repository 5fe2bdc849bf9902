"""A run whose processes are killed and stopped at random loses nothing it acknowledged and ends at its target."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.monkey import Chaos


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path / "run", seed=1, mean_seconds=2.0, stop_seconds=15.0)
    summary = chaos.run(seconds=20.0)
    assert sum(chaos.kills.values()) + sum(chaos.stops.values()) >= 2  # a driver takes half of the time to come back
    assert summary["acknowledged"] > 0
    assert (summary["lost"], summary["doubled"]) == (0, 0), summary
    assert summary["checked"] == summary["stored"]
    assert summary["fresh"] > 0
