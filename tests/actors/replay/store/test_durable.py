from __future__ import annotations

import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.replay.shard import ReplayShard
from actors.replay.store import files
from actors.replay.store.log import SegmentLog
from actors.replay.store.manifest import read_manifest
from actors.replay.store.record import Encoded
from tests.actors.replay.blocks import mixture
from tests.actors.replay.crashes import (
    STEP_BYTES,
    assert_same_samples,
    balanced,
    copy_of,
    durable_config,
    fill,
    opened,
    stored,
    tag_block,
)

SELECTORS = {
    "uniform": mixture(),
    "prioritized": mixture(uniform=0.0, prioritized=1.0),
    "recency": mixture(uniform=0.0, recency=1.0),
    "fifo": mixture(uniform=0.0, fifo=1.0),
    "online": mixture(online=True),
    "mixture": mixture(uniform=0.3, prioritized=0.4, recency=0.2, fifo=0.1, online=True),
}
BIG = 400  # chunks that hold everything these tests insert


def without_disk(stats: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in stats.items() if name not in ("log_bytes", "unlogged_steps")}


@pytest.mark.parametrize("mode", ["none", "async", "sync"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_resuming_from_a_checkpoint_is_exact(tmp_path: Path, mode: str, selector: str) -> None:
    config = replace(durable_config(mode, chunks=20), selector=SELECTORS[selector])
    rng = np.random.default_rng(0)

    def train(shard: ReplayShard, batches: int) -> None:
        for _ in range(batches):
            batch = shard.sample(4, 8)
            shard.write(batch.handle, priority=rng.random(len(batch.handle)))
            shard.write(batch.handle, {"episode": np.full(batch.shape, rng.integers(1, 99))})

    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 90)
        train(one, 5)
        one.checkpoint("first").wait()
        fill(one, 90, 150)
        train(one, 5)
        info = one.checkpoint("second").wait()
        assert info.num_steps == one.num_steps
        assert one.stats()["evicted_steps"] > 0
        folder = copy_of(tmp_path / "one")
        with opened(config, folder, restore="second", tail=False) as two:
            assert two.recovery.exact
            assert two.recovery.damage == ()
            assert two.recovery.checkpoint_steps == one.num_steps
            assert without_disk(two.stats()) == without_disk(one.stats())
            assert two.next_steps() == one.next_steps()
            for shard in (one, two):
                fill(shard, 140, 170)  # one repeated block per stream, then new ones
            assert_same_samples(one, two)
            assert without_disk(two.stats()) == without_disk(one.stats())


@pytest.mark.parametrize("mode", ["none", "sync"])
def test_many_blocks_are_stored_all_or_none(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    with opened(durable_config(mode, BIG), tmp_path / "one") as one:
        monkeypatch.setattr(files.os, "fdatasync", syncs.append)
        fill(one, 0, 10)
        syncs.clear()
        blocks = [tag_block(stream, first, 10) for first in (0, 10, 20) for stream in range(4)]
        assert one.insert_many(blocks) == 80
        assert len(syncs) == (mode == "sync")
        with pytest.raises(ValueError, match="stream 0 starts at step 50, but step 40 is the next one"):
            one.insert_many([tag_block(1, 30, 10), tag_block(0, 30, 10), tag_block(0, 50, 10)])
        assert stored(one) == {stream: list(range(30)) for stream in range(4)}
        assert one.stats()["duplicate_steps"] == 40


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_blocks_after_the_checkpoint_come_back_from_the_log(tmp_path: Path, mode: str) -> None:
    config = durable_config(mode, BIG)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 90)
        one.checkpoint("first").wait()
        fill(one, 90, 150)
        if mode == "async":
            one.checkpoint("unfinished").wait()
            (tmp_path / "one" / "manifest-unfinished.msgpack").unlink()
        with opened(config, copy_of(tmp_path / "one")) as two:
            assert stored(two) == stored(one)
            assert two.next_steps() == one.next_steps()
            assert two.recovery.manifest == "first"
            assert (two.recovery.checkpoint_steps, two.recovery.tail_steps) == (360, 240)
            assert two.recovery.lost_steps == two.recovery.torn_bytes == 0
            assert two.insert(tag_block(0, 140, 10)) == 0
            assert two.insert(tag_block(0, 150, 10)) == 10
            assert balanced(two)


def test_without_the_tail_the_log_ends_at_the_checkpoint(tmp_path: Path) -> None:
    config = durable_config("sync", BIG)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 50)
        one.checkpoint("first").wait()
        at_first = stored(one)
        fill(one, 50, 90)
        one.checkpoint("second").wait()
        fill(one, 90, 100)
        folder = copy_of(tmp_path / "one")
    with opened(config, folder, restore="first", tail=False) as two:
        assert stored(two) == at_first
        assert not (folder / "manifest-second.msgpack").exists()
        other = replace(tag_block(0, 50, 10), policy_version=77)
        assert two.insert(other) == 10
    with opened(config, folder) as three:  # the abandoned future does not come back
        assert three.next_steps() == {0: 60, 1: 50, 2: 50, 3: 50}
        assert three.read(0, 50, 10).policy_version.tolist() == [77]


def test_a_checkpoint_writes_only_what_the_log_lacks(tmp_path: Path) -> None:
    with opened(durable_config("none", BIG, compression="none"), tmp_path / "one") as shard:
        fill(shard, 0, 200)
        assert shard.stats()["unlogged_steps"] == 800
        first = shard.checkpoint("first").wait()
        fill(shard, 200, 210)
        second = shard.checkpoint("second").wait()
        assert first.num_bytes - second.num_bytes > 700 * (STEP_BYTES - 8)
        assert shard.stats()["unlogged_steps"] == 0


@pytest.mark.parametrize("restore", [None, "b"])
def test_a_named_checkpoint_that_is_missing_is_refused(tmp_path: Path, restore: str | None) -> None:
    with opened(durable_config(), tmp_path / "one") as shard:
        fill(shard, 0, 10)
        shard.checkpoint("a").wait()
        with pytest.raises(ValueError, match=r"a checkpoint's name is made of letters, .*, got '\.\./b'"):
            shard.checkpoint("../b")
    if restore:
        with pytest.raises(ValueError, match=r"holds no whole checkpoint 'b'; it holds \['a'\]"):
            ReplayShard(durable_config(), 0, tmp_path / "one", restore=restore, tail=False)
    with opened(durable_config(), tmp_path / "one") as shard:
        assert shard.recovery.manifest == "a"


def test_a_shard_without_a_directory_says_so() -> None:
    with pytest.raises(ValueError, match="no directory"):
        ReplayShard(durable_config("none"), 0).checkpoint("a")


def test_two_shards_cannot_have_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    with opened(durable_config(), tmp_path / "one"), pytest.raises(ValueError, match="is in use: process"):
        ReplayShard(durable_config(), 0, tmp_path / "one")
    with opened(durable_config(), tmp_path / "one"):
        pass


def test_a_manifest_of_another_format_version_is_refused(tmp_path: Path) -> None:
    with opened(durable_config(), tmp_path / "one") as shard:
        fill(shard, 0, 10)
        shard.checkpoint("a").wait()
    path = tmp_path / "one" / "manifest-a.msgpack"
    content = bytearray(path.read_bytes())
    content[8:12] = struct.pack("<I", 9)
    content[36:40] = struct.pack("<I", zlib.crc32(content[:36]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest-a\.msgpack has format version 9, this program reads 1"):
        ReplayShard(durable_config(), 0, tmp_path / "one")


@pytest.mark.parametrize("mode", ["none", "async", "sync"])
def test_first_priorities_survive_like_their_steps(tmp_path: Path, mode: str) -> None:
    config = replace(durable_config(mode, BIG), selector=SELECTORS["prioritized"])
    rng = np.random.default_rng(0)
    with opened(config, tmp_path / "one") as one:
        for first in range(0, 40, 10):
            priority = rng.random(10).astype(np.float32) if first != 20 else None
            one.insert(replace(tag_block(0, first, 10), priority=priority))
            if first == 10 or (first == 30 and mode == "none"):
                one.checkpoint(f"at-{first}").wait()
        masses = one.masses(1)
    with opened(config, copy_of(tmp_path / "one")) as two:  # some from the checkpoint, some from the log
        np.testing.assert_allclose(two.masses(1), masses)
    with opened(replace(config, max_bytes=config.max_bytes // 2), copy_of(tmp_path / "one")) as three:
        assert not three.recovery.exact
        np.testing.assert_allclose(three.masses(1), masses)


# -- damage ----------------------------------------------------------------------------------------------------


def test_every_length_of_the_log_recovers_the_whole_blocks(tmp_path: Path) -> None:
    config = durable_config("sync", BIG, segment_bytes=1 << 20)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 20, streams=2)
        one.checkpoint("first").wait()
        fill(one, 20, 50, streams=2)
    folder = copy_of(tmp_path / "one")
    segment = next(folder.glob("segment-*"))
    content = segment.read_bytes()
    least = content.index(b"\x89WFREC", content.index(b"\x89WFREC") + 1)
    previous = -1
    for size in range(least, len(content), 13):
        segment.unlink()
        for newer in folder.glob("segment-*"):
            newer.unlink()
        segment.write_bytes(content[:size])
        with opened(config, folder) as two:
            found = stored(two)
            count = sum(map(len, found.values()))
            assert count % 10 == 0
            assert count >= previous  # a longer log never holds less
            previous = count
            for stream, steps in found.items():
                assert steps == list(range(len(steps)))
                assert two.insert(tag_block(stream, two.next_steps()[stream], 10)) == 10  # the stream goes on
            assert balanced(two)
    assert previous >= 90


@pytest.mark.parametrize("seed", range(80))
def test_a_flipped_bit_anywhere_costs_at_most_one_block(tmp_path: Path, seed: int) -> None:
    config = durable_config("sync", BIG, segment_bytes=2000)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 30, streams=3)
        one.checkpoint("first").wait()
        fill(one, 30, 60, streams=3)
        everything = stored(one)
    rng = np.random.default_rng(seed)
    paths = sorted(path for path in (tmp_path / "one").iterdir() if path.name != "lock")
    path = paths[rng.integers(len(paths))]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    with opened(config, tmp_path / "one") as two:
        found = stored(two)
        missing = sum(len(steps) - len(found.get(stream, ())) for stream, steps in everything.items())
        assert missing in ((0,) if path.name.startswith("manifest") else (0, 10))
        recovery = two.recovery
        assert [d.file for d in recovery.damage] == [str(path)]
        assert recovery.torn_bytes == 0
        assert balanced(two)
        for stream in everything:  # every stream goes on, whatever its last block is
            assert two.insert(tag_block(stream, 60, 10)) == 10
        assert two.stats()["lost_steps"] == missing
        assert balanced(two)


def test_a_stream_goes_on_behind_a_hole_and_no_sequence_crosses_it(tmp_path: Path) -> None:
    config = durable_config("sync", BIG)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 80, streams=1)
    segment = next((tmp_path / "one").glob("segment-*"))
    content = bytearray(segment.read_bytes())
    starts = [i for i in range(len(content)) if content.startswith(b"\x89WFREC", i)]
    content[starts[4] - 5] ^= 1  # in the body of steps 30 to 39
    segment.write_bytes(content)
    with opened(config, tmp_path / "one") as two:
        assert two.spans() == [(0, 0, 30), (0, 40, 80)]
        assert two.streams() == {0: (40, 80)}
        assert two.recovery.lost_steps == 10
        (damage,) = two.recovery.damage
        assert (damage.stream_id, damage.first_step, damage.num_steps) == (0, 30, 10)
        assert two.num_items(8) == 23 + 33
        batch = two.sample(500, 8)
        np.testing.assert_array_equal(np.diff(batch.data["tag"], axis=1), 1)
        assert {*batch.first_step.tolist()} == {*range(23), *range(40, 73)}
        two.checkpoint("after").wait()
        three_folder = copy_of(tmp_path / "one")
        with opened(config, three_folder, restore="after", tail=False) as three:
            assert three.recovery.exact
            assert three.spans() == two.spans()
            assert_same_samples(two, three, 8)
        for first in range(80, 80 + 16 * BIG, 16):  # until the spans before the hole are evicted
            two.insert(tag_block(0, first, 16))
        assert len(two.spans()) == 1
        assert balanced(two)


@pytest.mark.parametrize("selector", ["fifo", "online"])
def test_queues_take_both_sides_of_a_hole(tmp_path: Path, selector: str) -> None:
    config = replace(durable_config("sync", 8), selector=SELECTORS[selector])
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 80, streams=1)
    segment = next((tmp_path / "one").glob("segment-*"))
    content = bytearray(segment.read_bytes())
    starts = [i for i in range(len(content)) if content.startswith(b"\x89WFREC", i)]
    content[starts[4] - 5] ^= 1
    segment.write_bytes(content)
    with opened(config, tmp_path / "one") as two:
        firsts = two.sample(9, 8).first_step.tolist()
        assert firsts == (list(range(9)) if selector == "fifo" else [0, 8, 16, 40, 48, 56, 64, 72, firsts[-1]])
        for first in range(80, 400, 16):
            two.insert(tag_block(0, first, 16))
            two.sample(4, 8)
        assert two.streams() == {0: (280, 400)}


def test_damage_under_a_checkpoint_costs_its_steps_and_keeps_the_priorities(tmp_path: Path) -> None:
    config = replace(durable_config("sync", BIG), selector=SELECTORS["prioritized"])
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 40, streams=2)
        handles = np.concatenate([one.read(stream, step, 1).handle for stream in (0, 1) for step in range(40)])
        one.write(handles, priority=np.where(np.arange(80) == 57, 1000.0, 0.0))  # step 17 of stream 1
        one.checkpoint("first").wait()
    segment = next((tmp_path / "one").glob("segment-*"))
    content = bytearray(segment.read_bytes())
    starts = [i for i in range(len(content)) if content.startswith(b"\x89WFREC", i)]
    content[starts[1] - 5] ^= 1  # in the body of steps 0 to 9 of stream 0
    segment.write_bytes(content)
    with opened(config, tmp_path / "one") as two:
        assert not two.recovery.exact
        assert two.recovery.lost_steps == 10
        assert stored(two) == {0: list(range(10, 40)), 1: list(range(40))}
        batch = two.sample(20, 1)
        assert set(zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True)) == {(1, 17)}
        assert balanced(two)


def test_other_sizes_take_the_same_steps(tmp_path: Path) -> None:
    with opened(durable_config("none", 40, 16), tmp_path / "one") as one:
        fill(one, 0, 100)
        one.checkpoint("first").wait()
        everything = stored(one)
    with opened(durable_config("none", 30, 32), tmp_path / "one") as two:
        assert not two.recovery.exact
        assert stored(two) == everything
        assert balanced(two)
        two.checkpoint("second").wait()
    with opened(durable_config("none", 6, 16), tmp_path / "one") as three:
        assert three.num_steps == 96 or three.stats()["chunks"] == 6
        assert all(everything[s][-len(steps) :] == steps or steps for s, steps in stored(three).items())
        assert balanced(three)


def test_another_selector_takes_the_stored_steps_for_new_ones(tmp_path: Path) -> None:
    config = durable_config("none", 40)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 20, streams=1)
        one.checkpoint("first").wait()
    with opened(replace(config, selector=SELECTORS["fifo"]), tmp_path / "one") as two:
        assert two.recovery.exact
        assert two.sample(6, 4).first_step.tolist() == list(range(6))


def test_a_damaged_newest_manifest_is_named_and_the_log_serves(tmp_path: Path) -> None:
    config = durable_config("sync", BIG)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 30)
        one.checkpoint("a").wait()
        fill(one, 30, 60)
        one.checkpoint("b").wait()
        everything = stored(one)
    path = tmp_path / "one" / "manifest-b.msgpack"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"manifest-b\.msgpack is damaged: the checksum of its arrays is wrong"):
        ReplayShard(config, 0, tmp_path / "one", restore="b", tail=False)
    with opened(config, tmp_path / "one", restore="b") as two:
        assert two.recovery.manifest == "a"
        assert [damage.file for damage in two.recovery.damage] == [str(path)]
        assert stored(two) == everything


# -- disks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def size_limit() -> Iterator[Callable[[int], None]]:
    """Sets the largest size of a file: writes beyond fail as on a full disk, with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_blocks_until_there_is_room(tmp_path: Path, size_limit: Callable[[int], None]) -> None:
    config = durable_config("sync", BIG)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 30)
        size_limit(int(one.stats()["log_bytes"]) + 100)
        before = stored(one)
        for _ in range(3):
            with pytest.raises(OSError, match="File too large"):
                one.insert(tag_block(0, 30, 10))
        assert stored(one) == before
        assert one.next_steps()[0] == 30
        size_limit(resource.RLIM_INFINITY)
        assert one.insert(tag_block(0, 30, 10)) == 10
        with opened(config, copy_of(tmp_path / "one")) as two:
            assert stored(two) == stored(one)
            assert two.recovery.damage == ()
            assert two.recovery.torn_bytes == 0


def test_a_failed_checkpoint_leaves_the_last_one_and_can_be_repeated(
    tmp_path: Path, size_limit: Callable[[int], None]
) -> None:
    config = durable_config("none", BIG)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 30)
        one.checkpoint("a").wait()
        fill(one, 30, 90)
        size_limit(int(one.stats()["log_bytes"]) + 1000)
        with pytest.raises(OSError, match="File too large"):
            one.checkpoint("b").wait()
        size_limit(resource.RLIM_INFINITY)
        with opened(config, copy_of(tmp_path / "one"), restore="a", tail=False) as two:
            assert two.num_steps == 120
        one.checkpoint("b").wait()
        with opened(config, copy_of(tmp_path / "one"), restore="b", tail=False) as three:
            assert stored(three) == stored(one)
            assert three.recovery.exact


def test_async_reports_a_full_disk_at_an_insert_and_recovers(tmp_path: Path, size_limit: Callable[[int], None]) -> None:
    config = durable_config("async", BIG, max_delay_seconds=0.02)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 30)
        one.checkpoint("a").wait()
        size_limit(int(one.stats()["log_bytes"]) + 100)
        with pytest.raises(OSError, match="File too large"):
            fill(one, 30, 100_000)
        refused = {stream: one.next_steps()[stream] for stream in range(4)}
        size_limit(resource.RLIM_INFINITY)
        for stream, first in refused.items():  # the block that was refused is not stored
            assert one.insert(tag_block(stream, first, 10)) == 10
        one.checkpoint("b").wait()
        with opened(config, copy_of(tmp_path / "one")) as two:
            assert stored(two) == stored(one)


@pytest.mark.parametrize("retained", [[], ["a"]])
def test_the_disk_is_bounded_between_checkpoints(tmp_path: Path, retained: list[str]) -> None:
    config = durable_config("sync", chunks=64, chunk_steps=64, segment_bytes=1 << 16, compression="none")
    bound, largest = config.shard_bytes, 0
    with opened(config, tmp_path / "one") as one:
        for first in range(0, 64 * 400, 64):
            for stream in range(3):
                one.insert(tag_block(stream, first, 64))
            if first == 64 * 40:
                one.checkpoint("a").wait()
                one.retain(retained)
            with suppress(FileNotFoundError):  # removed meanwhile
                largest = max(largest, sum(path.stat().st_size for path in (tmp_path / "one").iterdir()))
        records = 1 + 350 / (64 * (STEP_BYTES - 8))  # headers of these small records
        assert bound < largest < ((1.5 * (1 + len(retained)) + 0.75) * bound + bound / 8) * records
    folder = copy_of(tmp_path / "one")
    with opened(config, folder) as two:
        assert two.next_steps() == one.next_steps()
        assert two.recovery.lost_steps == 0
        newest = {stream: steps[-500:] for stream, steps in stored(one).items()}
        assert {stream: steps[-500:] for stream, steps in stored(two).items()} == newest
        assert balanced(two)
    if retained:
        with opened(config, copy_of(tmp_path / "one"), restore="a", tail=False) as three:
            assert three.next_steps() == dict.fromkeys(range(3), 64 * 41)
            assert three.recovery.exact


def test_retaining_thins_the_log_out(tmp_path: Path) -> None:
    config = durable_config("none", chunks=16, chunk_steps=64, segment_bytes=4096)
    with opened(config, tmp_path / "one") as one:
        for name, begin in (("a", 0), ("b", 640), ("c", 1280)):
            for first in range(begin, begin + 640, 64):
                one.insert(tag_block(0, first, 64))
                one.insert(tag_block(1, first, 64))
            one.checkpoint(name).wait()
        before = one.stats()["log_bytes"]
        one.retain(["c"])
        assert one.stats()["log_bytes"] < 0.6 * before
        assert sorted(path.name for path in (tmp_path / "one").glob("manifest-*")) == ["manifest-c.msgpack"]
        with opened(config, copy_of(tmp_path / "one"), restore="c", tail=False) as two:
            assert stored(two) == stored(one)
            assert two.recovery.exact


# -- while the shard is used -----------------------------------------------------------------------------------


def slow_log(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = SegmentLog.append

    def append(self: SegmentLog, records: list[Encoded], sync: bool) -> None:
        time.sleep(seconds)
        real(self, records, sync)

    monkeypatch.setattr(SegmentLog, "append", append)


@pytest.mark.parametrize("mode", ["none", "async"])
def test_a_checkpoint_is_a_consistent_cut_under_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Inserts that recycle every chunk go on while it is written; a twin in memory stopped at the cut."""
    config = replace(durable_config(mode, chunks=12), selector=SELECTORS["mixture"])
    twin = ReplayShard(config, 5)
    with opened(config, tmp_path / "one") as discarded:
        assert discarded.num_steps == 0
    one = ReplayShard(config, 5, tmp_path / "one")
    slow_log(monkeypatch, 0.005)
    for shard in (twin, one):
        fill(shard, 0, 60)
        batch = shard.sample(4, 8)
        shard.write(batch.handle, {"episode": np.full(batch.shape, 7)})
    pending = one.checkpoint("cut")
    recycled = 0
    for first in range(60, 300, 10):
        for stream in range(4):
            one.insert(tag_block(stream, first, 10))
        batch = one.sample(4, 8)
        one.write(batch.handle, priority=np.full(len(batch.handle), 5.0))
        one.write(batch.handle, {"episode": np.ones(batch.shape, np.int64)})
        recycled += not pending.done
    assert recycled > 0 or mode == "async"
    pending.wait()
    monkeypatch.undo()
    one.close()
    with opened(config, tmp_path / "one", restore="cut", tail=False) as two:
        assert two.recovery.exact
        assert stored(two) == stored(twin)
        for shard in (twin, two):
            fill(shard, 60, 80)
        assert_same_samples(twin, two, 8)


def test_async_writes_within_the_delay(tmp_path: Path) -> None:
    config = durable_config("async", BIG, max_delay_seconds=0.1)
    with opened(config, tmp_path / "one") as one:
        fill(one, 0, 30)
        time.sleep(0.5)
        with opened(config, copy_of(tmp_path / "one")) as two:
            assert stored(two) == stored(one)


def test_lost_steps_of_async_are_a_hole_and_counted(tmp_path: Path) -> None:
    config = durable_config("async", BIG, max_delay_seconds=0.05)
    one = ReplayShard(config, 0, tmp_path / "one")
    fill(one, 0, 30, streams=1)
    one.checkpoint("a").wait()
    folder = copy_of(tmp_path / "one")
    one.close()
    with opened(config, folder) as two:  # as if steps 30 to 49 had been acknowledged and lost
        assert two.insert(tag_block(0, 50, 10)) == 10
        assert two.spans() == [(0, 0, 30), (0, 50, 60)]
        assert two.stats()["lost_steps"] == 20
        with pytest.raises(ValueError, match="10 steps are missing"):
            two.insert(tag_block(0, 70, 10))
        assert balanced(two)


def test_a_sync_log_without_damage_allows_no_gap(tmp_path: Path) -> None:
    with opened(durable_config(), tmp_path / "one") as one:
        fill(one, 0, 10, streams=1)
    with (
        opened(durable_config(), tmp_path / "one") as two,
        pytest.raises(ValueError, match="stream 0 starts at step 20, but step 10 is the next one"),
    ):
        two.insert(tag_block(0, 20, 10))


def test_the_mode_may_change_between_runs(tmp_path: Path) -> None:
    reached = 0
    for mode in ("none", "sync", "async", "none", "sync"):
        config: Any = durable_config(mode, BIG)
        with opened(config, tmp_path / "one") as shard:
            assert shard.next_steps() == ({} if reached == 0 else dict.fromkeys(range(4), reached))
            fill(shard, reached, reached + 30)
            reached += 30
            if mode == "none":
                shard.checkpoint(f"at-{reached}").wait()
    with opened(durable_config("sync", BIG), tmp_path / "one") as shard:
        assert stored(shard) == {stream: list(range(150)) for stream in range(4)}
        assert shard.recovery.lost_steps == 0


def test_a_manifest_lists_what_was_stored(tmp_path: Path) -> None:
    with opened(durable_config("none", BIG), tmp_path / "one") as one:
        fill(one, 0, 40, streams=2)
        one.checkpoint("a").wait()
    manifest = read_manifest(tmp_path / "one" / "manifest-a.msgpack")
    assert manifest.num_steps == 80
    assert manifest.live() == {0: [(0, 40)], 1: [(0, 40)]}
