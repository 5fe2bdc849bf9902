"""What `replay.max_bytes=auto` is, and how many steps a replay is said to hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.replay.config import UNSIZED_BYTES, ReplayConfig
from actors.replay.store.chunks import ChunkStore
from actors.replay.store.schema import Schema
from cluster import build, replay_size
from cluster.config import resolve
from cluster.replay_size import auto_bytes, held_steps, sized, stored_bytes

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("step_bytes", "memory", "free_disk", "size"),
    [
        (100, 24 * GB, 100 * GB, 500_000_000),  # five million steps
        (12_500, 24 * GB, 100 * GB, 8 * GB),  # a third of the memory
        (12_500, 96 * GB, 30 * GB, 10 * GB),  # a third of the free disk
        (12_500, 0, 100 * GB, UNSIZED_BYTES),  # no telling
    ],
)
def test_auto_is_what_memory_and_disk_hold(step_bytes: int, memory: int, free_disk: int, size: int) -> None:
    assert auto_bytes(step_bytes, memory, free_disk) == size


def test_a_run_has_bytes_in_place_of_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["replay.max_bytes=auto"]
    config = resolve("pets", "nav3d", "debug", overrides=asked)
    assert config.replay.max_bytes == ReplayConfig().max_bytes == "auto"
    monkeypatch.setattr(replay_size, "available_memory", lambda: 3 << 20)
    run = sized(config, tmp_path / "not" / "there")
    assert run.replay.max_bytes == 1 << 20
    assert run.replay.shard_bytes == 1 << 19
    assert sized(run, tmp_path) is run
    assert held_steps(run) == (1 << 19) // (1024 * stored_bytes(run)) * 1024 * 2


@pytest.mark.parametrize(
    ("algo", "overrides"), [("pets", []), ("dreamer_v3", []), ("pets", ["replay.selector.kind=prioritized"])]
)
def test_a_shard_holds_what_is_said(algo: str, overrides: list[str]) -> None:
    config = resolve(algo, "nav3d", "debug", overrides=overrides)
    block = build.rollout_loop(config, build.policy(config)).collect(64).blocks[0]
    replay, schema = config.replay, Schema.of(block.data)
    selectors = 18 if overrides else 0  # bytes of the tree, docs/replay.md
    store = ChunkStore(schema, replay.shard_bytes, replay.chunk_steps, selectors, replay.takes_priorities)
    assert store.chunk_bytes == stored_bytes(config) * replay.chunk_steps
    assert held_steps(config) == replay.num_shards * store.capacity * replay.chunk_steps > 0


def test_a_bound_is_bytes_or_auto() -> None:
    with pytest.raises(ValueError, match=r"replay\.max_bytes"):
        resolve("pets", "nav3d", "debug", overrides=["replay.max_bytes=all"])
