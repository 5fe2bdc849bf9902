from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from actors.replay.config import DurabilityConfig, ReplayConfig
from actors.replay.shard import ReplayShard
from tests.actors.replay.test_shard import STEP_BYTES, equal_batches, fill, tag_block


def config(
    mode: str = "sync", chunks: int = 12, chunk_steps: int = 16, shards: int = 1, **kwargs: object
) -> ReplayConfig:
    durability = DurabilityConfig(mode, **kwargs)  # type: ignore[arg-type]
    return ReplayConfig(shards, shards * chunks * chunk_steps * STEP_BYTES, chunk_steps, durability=durability)


def after_crash(shard: ReplayShard, directory: Path, copy: Path) -> Path:
    """The folder as a crash of the shard's process would leave it now."""
    shutil.copytree(directory, copy)
    return copy


def contents(shard: ReplayShard) -> dict[int, np.ndarray]:
    return {s: shard.read(s, a, b - a).data["tag"][0] for s, (a, b) in shard.streams().items()}


@pytest.mark.parametrize("mode", ["none", "async", "sync"])
def test_resume_from_a_checkpoint_is_exact(tmp_path: Path, mode: str) -> None:
    one = ReplayShard(config(mode), 1, tmp_path / "one")
    fill(one, 0, 90)
    one.sample(4, 8)
    one.checkpoint("first").wait()
    fill(one, 90, 150)
    one.sample(4, 8)
    info = one.checkpoint("second").wait()
    assert info.num_steps == one.num_steps
    two = ReplayShard(
        config(mode), 2, after_crash(one, tmp_path / "one", tmp_path / "two"), restore="second", tail=False
    )
    assert two.recovery.exact
    assert two.recovery.damage == ()
    assert two.stats() | {"log_bytes": 0} == one.stats() | {"log_bytes": 0}
    for shard in (one, two):
        fill(shard, 140, 190)
    equal_batches(one, two)
    one.close()
    two.close()


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_blocks_after_the_checkpoint_come_back_from_the_log(tmp_path: Path, mode: str) -> None:
    one = ReplayShard(config(mode, 200), 1, tmp_path / "one")
    fill(one, 0, 90)
    one.checkpoint("first").wait()
    fill(one, 90, 150)
    one._durable().settle()
    two = ReplayShard(config(mode, 200), 2, after_crash(one, tmp_path / "one", tmp_path / "two"))
    assert two.next_steps() == one.next_steps()
    assert two.recovery.tail_steps == 240
    for stream, tags in contents(two).items():
        np.testing.assert_array_equal(tags, contents(one)[stream][-len(tags) :])
    assert two.insert(tag_block(0, 140, 10)) == 0
    one.close()
    two.close()
