"""The selector that goes round: the start that was not drawn for longest first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import OldestConfig
from actors.replay.shard import ReplayShard
from actors.replay.sharded import ShardedReplay
from tests.actors.replay.blocks import STEP_BYTES, Start, starts_of, tag_block, valid_starts

OLDEST = OldestConfig()


def make(shards: int = 1, chunks: int = 12) -> ShardedReplay:
    config = ReplayConfig(shards, shards * chunks * 16 * STEP_BYTES, 16, views={"again": OLDEST})
    return ShardedReplay.from_config(config, 3)


def draw(replay: ShardedReplay, count: int, length: int = 1) -> list[Start]:
    return starts_of(replay.sample(count, length, view="again"))


def test_each_start_comes_in_turn_and_new_ones_come_last() -> None:
    replay = make()
    replay.insert(tag_block(1, 0, 3))
    replay.insert(tag_block(2, 0, 2))
    assert draw(replay, 4) == [(1, 0), (1, 1), (1, 2), (2, 0)]
    replay.insert(tag_block(1, 3, 2))
    assert draw(replay, 5) == [(2, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert draw(replay, 5) == [(1, 3), (1, 4), (2, 1), (1, 0), (1, 1)]
    assert replay.masses(1, "again").tolist() == [7, 7]
    assert draw(replay, 14) == 2 * [(1, 2), (2, 0), (1, 3), (1, 4), (2, 1), (1, 0), (1, 1)]  # twice round


def test_others_draw_as_if_there_were_no_turns() -> None:
    replay, alone = make(), ShardedReplay.from_config(ReplayConfig(1, 12 * 16 * STEP_BYTES, 16), 3)
    for each in (replay, alone):
        each.insert(tag_block(1, 0, 40))
    draw(replay, 11)
    assert starts_of(replay.sample(50, 4)) == starts_of(alone.sample(50, 4))


def test_sequences_wait_until_they_are_complete() -> None:
    replay = make()
    replay.insert(tag_block(1, 0, 4))
    assert draw(replay, 3, 3) == [(1, 0), (1, 1), (1, 0)]
    replay.insert(tag_block(1, 4, 1))
    assert sorted(draw(replay, 3, 3)) == [(1, 0), (1, 1), (1, 2)]


def test_what_was_evicted_is_passed_over() -> None:
    replay = make(chunks=3)
    for first in range(0, 160, 16):
        replay.insert(tag_block(1, first, 16))
        replay.insert(tag_block(2, first, 5) if first == 0 else tag_block(1, first + 16, 0))
        draw(replay, 7)
    valid = valid_starts(replay, 1)
    assert Counter(draw(replay, 3 * len(valid))) == Counter(3 * valid)


def test_shards_share_the_turns() -> None:
    replay = make(shards=2)
    for stream in range(6):
        replay.insert(tag_block(stream, 0, 10 + stream))
    seen: set[Start] = set()
    for _ in range(60):
        seen.update(draw(replay, 8))
    assert seen == set(valid_starts(replay, 1))


def test_turns_go_on_after_a_checkpoint(tmp_path: Path) -> None:
    config = ReplayConfig(1, 12 * 16 * STEP_BYTES, 16, views={"again": OLDEST})
    shard = ReplayShard(config, 0, tmp_path)
    shard.insert(tag_block(1, 0, 20))
    shard.sample(13, 1, view="again")
    shard.checkpoint("here").wait()
    following = [shard.sample(9, 1, view="again").first_step for _ in range(3)]
    shard.close()
    again = ReplayShard(config, 0, tmp_path, restore="here", tail=False)
    for steps in following:
        np.testing.assert_array_equal(again.sample(9, 1, view="again").first_step, steps)
    again.close()
