"""Views: named selectors over the same steps that never take anything from each other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import FifoConfig, PrioritizedConfig, UniformConfig
from actors.replay.shard import ReplayShard
from actors.replay.sharded import ShardedReplay
from actors.replay.store.manifest import read_manifest
from tests.actors.replay.blocks import STEP_BYTES, mixture, starts_of, tag_block
from tests.fakes import check_sequences, counter_blocks

ONLINE = mixture(online=True)
CONFIG = ReplayConfig(1, 40 * 16 * 64, 16, ONLINE, views={"reanalyze": FifoConfig(), "checks": UniformConfig()})


def fill(replay: ReplayShard | ShardedReplay, begin: int, end: int, streams: int = 3) -> None:
    for first in range(begin, end, 10):
        for stream in range(streams):
            replay.insert(tag_block(stream, first, 10))


def test_a_second_reader_takes_nothing_from_the_online_queue() -> None:
    """The train view draws the same batches, bit for bit, whether or not others read between them."""
    alone, shared = ReplayShard(replace(CONFIG, views={}), 3), ReplayShard(CONFIG, 3)
    taken = []
    for first in range(0, 60, 10):
        for shard in (alone, shared):
            fill(shard, first, first + 10)
        for view in ("reanalyze", "checks", "reanalyze"):
            taken += starts_of(shared.sample(4, 5, view=view)) if view == "reanalyze" else []
            shared.sample(3, 5, view="checks")
        a, b = alone.sample(5, 5), shared.sample(5, 5)
        np.testing.assert_array_equal(a.handle, b.handle)
    assert len(set(taken)) == len(taken)  # the other queue takes every start once, too


def test_the_online_queue_of_counting_streams_is_whole_beside_another_reader() -> None:
    replay = ShardedReplay.from_config(ReplayConfig(2, 2 << 20, 64, ONLINE, views={"reanalyze": ONLINE}), 0)
    seen: dict[str, list[tuple[int, int]]] = {"train": [], "reanalyze": []}
    for stream in range(4):
        for block in counter_blocks(stream, 2):
            replay.insert(block)
    for view in ("reanalyze", "train"):
        for shard in replay.shards:
            count = shard.num_steps // 16
            batch = shard.sample(count, 16, view=view)
            check_sequences(batch)
            seen[view] += zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True)
    assert sorted(seen["train"]) == sorted(seen["reanalyze"])
    assert sorted(seen["train"]) == [(stream, step) for stream in range(4) for step in range(0, 128, 16)]


def test_masses_are_of_the_view_that_asks() -> None:
    shard = ReplayShard(CONFIG, 0)
    assert shard.views == ("train", "reanalyze", "checks")
    assert shard.masses(4, "reanalyze").tolist() == [0, 0]
    fill(shard, 0, 10, streams=1)
    shard.sample(3, 4, view="reanalyze")
    assert shard.masses(4, "reanalyze").tolist() == [7, 4]
    assert shard.masses(4).tolist() == shard.masses(4, "checks").tolist() == [7]
    assert shard.fractions("reanalyze").tolist() == [0, 1]
    for ask in (lambda: shard.masses(4, "other"), lambda: shard.sample(1, 4, view="other")):
        with pytest.raises(ValueError, match="the replay has no view 'other'; it has train, reanalyze, checks"):
            ask()


def test_a_priority_goes_into_every_view_that_takes_priorities() -> None:
    views = {"a": PrioritizedConfig(exponent=1.0), "b": PrioritizedConfig(exponent=2.0), "c": UniformConfig()}
    shard = ReplayShard(replace(CONFIG, views=views), 0)
    fill(shard, 0, 10, streams=1)
    batch = shard.read(0, 3, 1)
    shard.write(batch.handle, priority=np.array([3.0]))
    assert [shard.masses(1, view).tolist() for view in "abc"] == [[10, 12], [10, 18], [10]]


def test_the_memory_of_every_view_is_part_of_the_byte_bound() -> None:
    plain = ReplayConfig(1, 30 * 16 * STEP_BYTES, 16)
    steps = []
    for views in ({}, {"a": PrioritizedConfig()}, {"a": PrioritizedConfig(), "b": PrioritizedConfig()}):
        shard = ReplayShard(replace(plain, views=views), 0)
        fill(shard, 0, 1000, streams=1)
        assert shard.nbytes <= plain.shard_bytes
        kept = STEP_BYTES + 18 * len(views) + (4 if views else 0)
        assert shard.nbytes == shard.stats()["chunks"] * 16 * kept
        steps.append(shard.num_steps)
    assert steps[0] > steps[1] > steps[2]


def test_every_view_resumes_exactly(tmp_path: Path) -> None:
    one = ShardedReplay.from_config(replace(CONFIG, num_shards=2), 1, tmp_path / "one")
    fill(one, 0, 60)
    for view in ("train", "reanalyze", "checks"):
        one.sample(4, 5, view=view)
    one.checkpoint("here")
    copy = shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = ShardedReplay.from_config(replace(CONFIG, num_shards=2), 9, copy, restore="here", tail=False)
    for replay in (one, two):
        fill(replay, 60, 80)
    for view in ("checks", "train", "reanalyze", "train"):
        a, b = (replay.sample(6, 5, view=view) for replay in (one, two))
        np.testing.assert_array_equal(a.handle, b.handle)
    for replay in (one, two):
        replay.close()


def test_a_manifest_without_views_serves_train_and_new_views_begin_with_all_steps(tmp_path: Path) -> None:
    before = ReplayShard(replace(CONFIG, views={}), 1, tmp_path)
    fill(before, 0, 30, streams=1)
    taken = starts_of(before.sample(2, 5))
    before.checkpoint("a").wait()
    before.close()
    stored = read_manifest(tmp_path / "manifest-a.msgpack")
    assert not any(name.startswith("view/") for name in stored.arrays)
    after = ReplayShard(CONFIG, 2, tmp_path)
    assert after.recovery.exact
    assert starts_of(after.sample(1, 5)) == [(0, 10)]  # the online queue goes on
    assert taken == [(0, 0), (0, 5)]
    assert starts_of(after.sample(3, 5, view="reanalyze")) == [(0, 0), (0, 1), (0, 2)]
    after.close()


@pytest.mark.parametrize("name", ["train", "Reanalyze", "", "a/b", "1"])
def test_names_of_views_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"views are named by .* and not 'train', got '{name}'"):
        ReplayConfig(views={name: UniformConfig()})
