"""Helpers of the durability tests: folders as crashes leave them, and what a shard must hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from actors.replay.config import DurabilityConfig, ReplayConfig
from actors.replay.shard import ReplayShard
from actors.replay.sharded import ShardedReplay
from tests.actors.replay.blocks import STEP_BYTES, tag_block

__all__ = ["STEP_BYTES", "tag_block"]


def durable_config(
    mode: str = "sync", chunks: int = 12, chunk_steps: int = 16, shards: int = 1, **durability: Any
) -> ReplayConfig:
    """A replay of `chunks` chunks per shard of `tag_block`'s steps."""
    settings = DurabilityConfig(mode, **durability)  # type: ignore[arg-type]
    return ReplayConfig(shards, shards * chunks * chunk_steps * STEP_BYTES, chunk_steps, durability=settings)


def copy_of(folder: Path, name: str = "copy") -> Path:
    """The folder as a crash of its process would leave it now."""
    copy = folder.with_name(name)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy


@contextmanager
def opened(config: ReplayConfig, folder: Path, **kwargs: Any) -> Iterator[ReplayShard]:
    """A shard that gives its folder free at the end."""
    shard = ReplayShard(config, 99, folder, **kwargs)
    try:
        yield shard
    finally:
        shard.close()


def stored(replay: ReplayShard | ShardedReplay) -> dict[int, list[int]]:
    """Stream -> stored steps, checked against `tag_block`'s tags; every step is there once."""
    steps: dict[int, list[int]] = {}
    for shard in replay.shards if isinstance(replay, ShardedReplay) else [replay]:
        for stream, first, end in shard.spans():
            tags = shard.read(stream, first, end - first).data["tag"][0]
            np.testing.assert_array_equal(tags, stream * 1_000_000 + np.arange(first, end))
            steps.setdefault(stream, []).extend(range(first, end))
    assert all(len(set(s)) == len(s) for s in steps.values())
    return {stream: sorted(s) for stream, s in sorted(steps.items())}


def fill(replay: ReplayShard | ShardedReplay, begin: int, end: int, streams: int = 4) -> None:
    """Blocks of ten steps for every stream in turn."""
    for first in range(begin, end, 10):
        for stream in range(streams):
            replay.insert(tag_block(stream, first, 10, version=first))


def assert_same_samples(one: ReplayShard | ShardedReplay, two: ReplayShard | ShardedReplay, length: int = 12) -> None:
    """Both draw the same batches to the last bit."""
    for _ in range(10):
        a, b = one.sample(8, length), two.sample(8, length)
        for name in ("handle", "weight", "policy_version", "stream_id", "first_step"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for key in a.data:
            np.testing.assert_array_equal(a.data[key], b.data[key])


def balanced(replay: ReplayShard | ShardedReplay) -> bool:
    """Whether the counters account for every step."""
    stats = replay.stats()
    return stats["inserted_steps"] - stats["evicted_steps"] - stats["lost_steps"] == stats["steps"]
