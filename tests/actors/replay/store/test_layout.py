from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.replay.config import ReplayConfig
from actors.replay.shard import ReplayShard
from actors.replay.sharded import ShardedReplay
from tests.actors.replay.blocks import mixture
from tests.actors.replay.crashes import assert_same_samples, balanced, copy_of, durable_config, fill, stored, tag_block

STREAMS = 6


@contextmanager
def replay_of(config: ReplayConfig, folder: Path, **kwargs: Any) -> Iterator[ShardedReplay]:
    replay = ShardedReplay.from_config(config, 3, folder, **kwargs)
    try:
        yield replay
    finally:
        replay.close()


@pytest.mark.parametrize("mode", ["none", "async", "sync"])
def test_a_sharded_replay_resumes_exactly(tmp_path: Path, mode: str) -> None:
    config = replace(durable_config(mode, shards=2), selector=mixture(uniform=0.5, prioritized=0.5))
    with replay_of(config, tmp_path / "one") as one:
        fill(one, 0, 90)
        one.sample(4, 8)
        info = one.checkpoint("a")
        assert info.num_steps == one.num_steps
        fill(one, 90, 120)
        one.sample(4, 8)
        one.checkpoint("b")
        for name, same in (("b", True), (None, True), ("a", False)):
            with replay_of(config, copy_of(tmp_path / "one"), restore=name, tail=False) as two:
                assert (stored(two) == stored(one)) == same
        with replay_of(config, copy_of(tmp_path / "one"), restore="b", tail=False) as two:
            for replay in (one, two):
                fill(replay, 120, 140)
            assert_same_samples(one, two, 8)


@pytest.mark.parametrize("mode", ["none", "sync"])
def test_steps_priorities_and_counts_survive_2_to_3_to_1_shards(tmp_path: Path, mode: str) -> None:
    selector = mixture(uniform=0.0, prioritized=1.0)
    samples = 0
    for num_shards in (2, 3, 1):
        config = replace(durable_config(mode, chunks=600, shards=num_shards), selector=selector)
        with replay_of(config, tmp_path) as replay:
            if samples == 0:
                fill(replay, 0, 50, streams=STREAMS)
                for shard in replay.shards:
                    for stream, first, end in shard.spans():
                        handles = np.concatenate([shard.read(stream, step, 1).handle for step in range(first, end)])
                        shard.write(handles, priority=np.arange(first, end) == (17 if stream == 4 else -1))
            batch = replay.sample(32, 1)
            samples += 32
            assert {*zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True)} == {(4, 17)}
            assert replay.stats()["sampled_steps"] == samples
            assert replay.stats()["inserted_steps"] == STREAMS * 50
            assert stored(replay) == {stream: list(range(50)) for stream in range(STREAMS)}
            assert replay.insert(tag_block(2, 40, 10)) == 0  # a retry from before the change
            assert balanced(replay)
            replay.checkpoint(f"with-{num_shards}")
            replay.retain([f"with-{num_shards}"])
            assert [path.name for path in tmp_path.iterdir()] == [
                f"layout-{'231'.index(str(num_shards)):06d}-of-{num_shards}"
            ]


def test_the_old_layout_stays_until_the_new_one_has_a_checkpoint(tmp_path: Path) -> None:
    with replay_of(durable_config("sync", 600, shards=2), tmp_path / "one") as replay:
        fill(replay, 0, 30, streams=STREAMS)
        replay.checkpoint("a")
        fill(replay, 30, 40, streams=STREAMS)
    with replay_of(durable_config("sync", 600, shards=3), tmp_path / "one") as replay:
        assert replay.next_steps() == dict.fromkeys(range(STREAMS), 40)
        replay.retain([])
        assert len(list((tmp_path / "one").iterdir())) == 2
        fill(replay, 40, 50, streams=STREAMS)
        folder = copy_of(tmp_path / "one")
    with replay_of(durable_config("sync", 600, shards=3), folder) as replay:  # no checkpoint was written
        assert stored(replay) == {stream: list(range(50)) for stream in range(STREAMS)}


def test_an_import_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    two, three = durable_config("sync", 600, shards=2), durable_config("sync", 600, shards=3)
    with replay_of(two, tmp_path / "one") as replay:
        fill(replay, 0, 30, streams=STREAMS)
        replay.checkpoint("a")
    with replay_of(three, tmp_path / "one") as replay:
        fill(replay, 30, 40, streams=STREAMS)
    for shard in (0, 2):
        for path in (tmp_path / "one" / "layout-000001-of-3" / f"shard-{shard}").glob("manifest-*"):
            path.unlink()
    with replay_of(durable_config("sync", 600, shards=1), tmp_path / "one") as replay:
        steps = stored(replay)
        assert set(steps) == set(range(STREAMS))
        assert all(steps[stream] in (list(range(30)), list(range(40))) for stream in steps)
        assert balanced(replay)


def test_fewer_bytes_keep_the_newest_steps(tmp_path: Path) -> None:
    with replay_of(durable_config("none", 100, shards=2), tmp_path) as replay:
        fill(replay, 0, 200, streams=STREAMS)
        replay.checkpoint("a")
    with replay_of(durable_config("none", 8, shards=3), tmp_path) as replay:
        for stream, steps in stored(replay).items():
            assert steps == list(range(steps[0], 200)), stream
        assert replay.num_steps > 100
        assert replay.stats()["inserted_steps"] == STREAMS * 200
        assert balanced(replay)


def test_a_replay_without_a_directory_says_so() -> None:
    with pytest.raises(ValueError, match="no directory"):
        ShardedReplay.from_config(durable_config("none"), 0).checkpoint("a")


def test_a_failed_opening_gives_the_folder_free(tmp_path: Path) -> None:
    config = durable_config("sync", shards=1)
    with replay_of(config, tmp_path) as replay:
        fill(replay, 0, 10)
    folder = tmp_path / "layout-000000-of-1" / "shard-0"
    with pytest.raises(ValueError, match="holds no whole checkpoint 'x'"):
        ReplayShard(config, 0, folder, restore="x")
    ReplayShard(config, 0, folder).close()
