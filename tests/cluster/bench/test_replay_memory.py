"""The memory benchmark on tiny sizes."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.bench.replay_memory import RaggedSource, run


def test_ragged_blocks_are_whole_streams_with_marked_episodes() -> None:
    source, steps, last = RaggedSource(), {}, {}
    for _ in range(500):
        block = source.block()
        assert block.first_step == steps.get(block.stream_id, 0)  # no gap
        assert block.data["is_first"][0] == last.get(block.stream_id, True)
        assert np.array_equal(block.data["is_first"][1:], block.data["is_last"][:-1])
        steps[block.stream_id] = block.first_step + block.num_steps
        last[block.stream_id] = bool(block.data["is_last"][-1])
    assert len(steps) >= 16
    assert len({block % 7 for block in steps.values()}) > 1


def test_resident_memory_stays_near_the_bound() -> None:
    rows = list(run(steps=100_000, megabytes=32, seconds=0))
    assert [row.case.rpartition(": ")[2] for row in rows] == [
        "peak RSS over baseline", "most bytes stored", "with samples",
    ] * 2  # fmt: skip
    for row in rows:
        if row.unit == "MiB":
            assert row.peer == "byte bound"
            assert 16 < row.value < 64  # a small bound: the interpreter's own noise is a part of it
        if "most bytes" in row.case:
            assert row.value <= 32


@pytest.mark.integration
def test_object_store_rows() -> None:
    rows = list(run(steps=0, seconds=2.0, rate=40.0))
    assert [row.case.rpartition(": ")[2].split(",")[0] for row in rows] == [
        "object store",
        "driver",
        "shard",
        "shared files",
    ]
    assert all(row.peer == "first fifth" and row.peer_value is not None for row in rows)
    assert rows[-1].value > 0


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="megabytes 0"):
        next(run(megabytes=0))
