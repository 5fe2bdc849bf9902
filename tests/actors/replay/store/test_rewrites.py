"""One write for priorities, latents and targets: all or nothing, and never an older target over a newer one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import PrioritizedConfig, SelectorConfig, UniformConfig
from actors.replay.shard import ReplayShard
from actors.replay.sharded import ShardedReplay
from tests.actors.replay.blocks import STEP_BYTES, tag_block

PRIORITIZED = PrioritizedConfig(exponent=1.0)
PLAIN = UniformConfig()


def block(stream: int, first: int, steps: int, version: int = 0) -> Block:
    made = tag_block(stream, first, steps, version)
    fresh = {"value": np.zeros(steps, np.float32), "target": np.zeros((steps, 2), np.float32)}
    return Block(stream, first, version, made.data | fresh)


def make(
    selector: SelectorConfig = PRIORITIZED, directory: Path | None = None, chunks: int = 40, **options: Any
) -> ReplayShard:
    return ReplayShard(ReplayConfig(1, chunks * 16 * (STEP_BYTES + 12 + 22), 16, selector), 0, directory, **options)


def state(shard: ReplayShard) -> dict[str, Any]:
    manifest = shard._manifest("x")
    return {name: array.tolist() for name, array in manifest.arrays.items()} | dict(manifest.books["counters"])


def values_of(shard: ReplayShard, stream: int = 0) -> list[float]:
    first, end = shard.streams()[stream]
    return [float(value) for value in shard.read(stream, first, end - first).data["value"][0]]


def test_priorities_and_keys_are_written_together() -> None:
    shard = make()
    shard.insert(block(0, 0, 20))
    handle = shard.read(0, 4, 6).handle
    new = {"value": np.full((1, 3), 5.0, np.float32), "target": np.ones((1, 6, 2), np.float32)}
    assert shard.write(handle, new, np.array([9.0]), length=6) == 1
    read = shard.read(0, 0, 20).data
    assert np.flatnonzero(read["value"][0]).tolist() == [7, 8, 9]  # the last steps of the sequence
    assert np.flatnonzero(read["target"][0, :, 0]).tolist() == [4, 5, 6, 7, 8, 9]
    assert shard.masses(1)[1] == 19 + 9


@pytest.mark.parametrize(
    ("values", "priority", "version", "message"),
    [
        ({"other": np.zeros((1, 4), np.float32)}, [1.0], None, "key 'other' is not stored"),
        ({"target": np.zeros((1, 4), np.float32)}, [1.0], 3, "'target' have shape"),
        ({"target": np.zeros((1, 4, 2), np.complex64)}, [1.0], 3, "are complex64"),
        ({"target": np.zeros((2, 4, 2), np.float32)}, [1.0], 3, "expected values of 1 sequences"),
        ({"target": np.zeros((1, 9, 2), np.float32)}, [1.0], 3, "9 values of 'target' are for sequences of 4 steps"),
        ({}, [np.nan], None, "priorities must be finite"),
        ({}, [1e300], None, "too large to add up"),
        ({}, [1.0, 2.0], None, "expected 1 priorities"),
        ({}, [1.0], -1, "version must lie in"),
        ({}, [1.0], 1 << 31, "version must lie in"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    values: Mapping[str, Any], priority: list[float], version: int | None, message: str
) -> None:
    shard = make(PrioritizedConfig(exponent=2.0))
    shard.insert(block(0, 0, 20))
    before, handle = state(shard), shard.read(0, 3, 4).handle
    good = {"value": np.ones((1, 4), np.float32)}
    with pytest.raises(ValueError, match=message):
        shard.write(handle, good | dict(values), np.array(priority), version, 4)
    assert state(shard) == before


def test_values_beyond_the_end_of_a_stream_change_nothing() -> None:
    shard = make()
    shard.insert(block(0, 0, 20))
    before, handle = state(shard), shard.read(0, 18, 2).handle
    with pytest.raises(ValueError, match="3 values of 'value' run past the end of stream 0"):
        shard.write(handle, {"value": np.ones((1, 3), np.float32)}, np.array([2.0]))
    assert state(shard) == before


def test_an_older_target_never_overwrites_a_newer_one() -> None:
    shard = make(PLAIN)
    shard.insert(block(0, 0, 8, version=2))  # what the policy of version 2 stored is of version 2
    handle = shard.read(0, 0, 4).handle

    def write(start: int, value: float, version: int | None) -> None:
        new = {"value": np.full((1, 4), value, np.float32)}
        shard.write(shard.read(0, start, 4).handle, new, version=version)

    write(0, 1.0, 1)
    assert values_of(shard) == [0] * 8
    assert shard.stats()["superseded_writes"] == 1
    write(2, 5.0, 5)
    assert values_of(shard) == [0, 0, 5, 5, 5, 5, 0, 0]
    write(0, 4.0, 4)  # step by step: only those that have nothing newer
    assert values_of(shard) == [4, 4, 5, 5, 5, 5, 0, 0]
    assert shard.stats()["superseded_writes"] == 2
    write(4, 5.5, 5)  # of the same version: the last counts
    assert values_of(shard) == [4, 4, 5, 5, 5.5, 5.5, 5.5, 5.5]
    write(4, 7.0, None)  # without a version, whatever is there
    assert values_of(shard)[4:] == [7] * 4
    shard.write(handle, {"target": np.ones((1, 4, 2), np.float32)}, version=3)  # every key has its own versions
    assert shard.read(0, 0, 4).data["target"].min() == 1
    assert shard.stats()["superseded_writes"] == 2


def test_random_writes_leave_the_newest_version_of_every_step() -> None:
    """Against a model: version and value are equal, so each step must end with the largest it was offered."""
    rng, shard = np.random.default_rng(0), make(PLAIN, chunks=12)
    newest: dict[tuple[int, int], int] = {}
    end = 0
    for _ in range(300):
        if end < 30 or rng.random() < 0.2:
            version = int(rng.integers(0, 100))
            for stream in range(2):
                shard.insert(Block(stream, end, version, block(stream, end, 10).data | {"value": _full(10, version)}))
                newest |= {(stream, step): version for step in range(end, end + 10)}
            end += 10
        batch = shard.sample(4, 6)
        version = int(rng.integers(0, 200))
        shard.write(batch.handle, {"value": np.full((4, 6), version, np.float32)}, version=version)
        for stream, first in zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True):
            for step in range(first, first + 6):
                newest[stream, step] = max(version, newest[stream, step])
    assert shard.stats()["evicted_steps"] > 0
    for stream, (first, last) in shard.streams().items():
        assert values_of(shard, stream) == [newest[stream, step] for step in range(first, last)]


def _full(steps: int, value: float) -> np.ndarray:
    return np.full(steps, value, np.float32)


def test_evicted_sequences_are_counted_and_ignored() -> None:
    shard = make(chunks=4)
    shard.insert(block(0, 0, 64))
    old = shard.sample(20, 2)
    shard.insert(block(0, 64, 20))
    stale = int((old.first_step < shard.streams()[0][0]).sum())
    assert 0 < stale < 20
    written = shard.write(old.handle, {"value": np.ones((20, 2), np.float32)}, np.full(20, 2.0))
    assert written == 20 - stale
    assert (shard.stats()["stale_writes"], shard.stats()["stale_updates"]) == (stale, stale)
    empty = make()
    assert empty.write(old.handle, {"value": np.ones((20, 2), np.float32)}, np.full(20, 2.0)) == 0
    assert empty.stats()["stale_writes"] == 20


def test_versions_are_part_of_the_byte_bound() -> None:
    shard = make(PLAIN, chunks=10)
    for first in range(0, 1000, 10):
        shard.insert(block(0, first, 10))
    bound, chunks, evicted = (shard.stats()[name] for name in ("max_bytes", "chunks", "evicted_steps"))
    newest = shard.read(0, 980, 4)
    new = {"value": np.ones((1, 4), np.float32), "target": np.ones((1, 4, 2), np.float32)}
    assert shard.write(newest.handle, new, version=1) == 1
    assert shard.stats()["chunks"] < chunks
    assert shard.stats()["evicted_steps"] > evicted
    for first in range(1000, 2000, 10):
        shard.insert(block(0, first, 10))
        assert shard.nbytes <= bound
    assert shard.nbytes == shard.stats()["chunks"] * 16 * (STEP_BYTES + 12 + 8)


@pytest.mark.parametrize("chunks", [40, 30])
def test_targets_and_versions_survive(tmp_path: Path, chunks: int) -> None:
    """Exactly, and in a shard of another size."""
    one = make(PLAIN, tmp_path / "one")
    one.insert(block(0, 0, 30, version=1))
    one.write(one.read(0, 5, 10).handle, {"value": np.full((1, 10), 6.0, np.float32)}, version=6)
    one.checkpoint("a").wait()
    folder = shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = make(PLAIN, folder, chunks=chunks, restore="a", tail=False)
    assert two.recovery.exact == (chunks == 40)
    for shard in (one, two):
        assert values_of(shard) == [0] * 5 + [6] * 10 + [0] * 15
        shard.insert(block(0, 30, 10, version=4))
        new = {"value": np.full((1, 40), 3.0, np.float32)}
        shard.write(shard.read(0, 0, 40).handle, new, version=3)
        assert values_of(shard) == [3] * 5 + [6] * 10 + [3] * 15 + [0] * 10
        assert shard.stats()["superseded_writes"] == 1
        shard.close()


def test_shards_take_their_own_rows() -> None:
    replay = ShardedReplay.from_config(ReplayConfig(3, 3 << 20, 16, PRIORITIZED, mixed_batches=True), 0)
    for stream in range(7):
        replay.insert(block(stream, 0, 20))
    batch = replay.sample(16, 5)
    tags = batch.data["tag"].astype(np.float32)
    replay.write(batch.stream_id, batch.handle, {"value": tags}, np.ones(16), 4, 5)
    for stream, first in zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True):
        read = replay.read(stream, first, 5).data
        np.testing.assert_array_equal(read["value"], read["tag"].astype(np.float32))
