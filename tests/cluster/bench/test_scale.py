"""The scale benchmark on tiny sizes; no times are asserted."""

from __future__ import annotations

import pytest

from cluster.bench.scale import run


@pytest.mark.integration
def test_every_part_has_its_rows() -> None:
    rows = list(run(actors="1,3", shards="2", seconds=0.1))
    assert all(row.bench == "scale" for row in rows)
    idle = [row for row in rows if row.case.startswith("nothing to do")]  # less than a tick of the clock, perhaps
    assert all(row.value > 0 for row in rows if row not in idle)
    cases = [row.case for row in rows]
    for actors in (1, 3):
        assert f"driver, {actors} actors: leases" in cases
        assert f"weight store, {actors} processes poll" in cases
        assert f"insert, {actors} actors, 2 shards" in cases
    assert "nothing to do, 2 shards: CPU time of all processes" in cases
    assert "mixed batches of 2 x 8 steps, 2 shards" in cases
    assert "checkpoint of 2 shards, nothing new" in cases
    leases = [row for row in rows if row.unit == "leases/s"]
    assert all(row.peer == "bare Ray calls" and row.ratio is not None for row in leases)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="actors must be positive whole numbers separated by commas, got '1,x'"):
        next(run(actors="1,x"))
