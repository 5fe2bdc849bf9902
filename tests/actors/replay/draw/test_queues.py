"""FIFO and the online queue, seen through the replay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import SelectorConfig
from actors.replay.draw.queues import QueueSelector
from actors.replay.sharded import ShardedReplay
from actors.replay.store.chunks import ChunkStore
from actors.replay.store.schema import Schema
from tests.actors.replay.blocks import (
    STEP_BYTES,
    Start,
    chi_square,
    mixture,
    normalised,
    starts_of,
    tag_block,
    valid_starts,
)

FIFO = mixture(uniform=0, fifo=1)
ONLINE = mixture(uniform=1, online=True)


def make_replay(selector: SelectorConfig, shards: int = 1, chunks: int = 12, mixed: bool = False) -> ShardedReplay:
    return ShardedReplay.from_config(ReplayConfig(shards, shards * chunks * 16 * STEP_BYTES, 16, selector, mixed), 3)


def test_fifo_takes_every_start_once_in_the_order_of_its_last_step() -> None:
    replay = make_replay(FIFO)
    replay.insert(tag_block(1, 0, 4))
    replay.insert(tag_block(2, 0, 5))
    replay.insert(tag_block(1, 4, 3))
    assert replay.masses(4).tolist() == [1 + 2 + 3, 6]
    taken = starts_of(replay.sample(4, 4)) + starts_of(replay.sample(2, 4))
    assert taken == [(1, 0), (2, 0), (2, 1), (1, 1), (1, 2), (1, 3)]
    assert replay.masses(4).tolist() == [6, 0]
    replay.insert(tag_block(2, 5, 1))
    assert starts_of(replay.sample(1, 4)) == [(2, 2)]


def test_an_empty_queue_leaves_the_batch_to_the_uniform_distribution() -> None:
    replay = make_replay(FIFO)
    replay.insert(tag_block(1, 0, 30))
    first = replay.sample(40, 4)
    assert starts_of(first)[:27] == [(1, step) for step in range(27)]
    assert first.weight.tolist() == [1] * 40
    expected = normalised(dict.fromkeys(valid_starts(replay, 4), 1.0))
    assert chi_square(lambda: replay.sample(16, 4), expected, 10_000) < 4.5


@pytest.mark.parametrize("mixed", [False, True])
def test_a_fifo_fraction_shares_its_batches_with_the_others(mixed: bool) -> None:
    selector = mixture(uniform=0.5, fifo=0.5, weight_exponent=1.0)
    replay = make_replay(selector, shards=2, mixed=mixed)
    for stream in range(4):
        replay.insert(tag_block(stream, 0, 30))
    valid = valid_starts(replay, 3)
    counts: Counter[Start] = Counter()
    drawn = 0
    while replay.masses(3)[1] > 0:
        batch = replay.sample(2, 3)
        np.testing.assert_allclose(batch.weight, 1.0)
        counts.update(starts_of(batch))
        drawn += 2
    assert set(counts) == set(valid)  # each was taken by the queue
    assert drawn < 4 * len(valid)


def test_the_online_queue_takes_every_step_once_before_the_mixture() -> None:
    replay = make_replay(ONLINE)
    replay.insert(tag_block(1, 0, 9))
    replay.insert(tag_block(2, 0, 4))
    replay.insert(tag_block(1, 9, 4))
    fresh = starts_of(replay.sample(8, 4))
    assert fresh[:4] == [(1, 0), (1, 4), (2, 0), (1, 8)]
    replay.insert(tag_block(2, 4, 11))
    assert starts_of(replay.sample(1, 4)) == [(2, 4)]
    assert starts_of(replay.sample(3, 4))[0] == (2, 8)
    assert replay.masses(4).tolist() == [10 + 12]  # the queue is no component


def test_online_sequences_count_as_uniform_in_the_weights() -> None:
    selector = mixture(uniform=0, prioritized=1, priority_exponent=1, weight_exponent=1, online=True)
    replay = ShardedReplay.from_config(ReplayConfig(1, 1 << 16, 16, selector), 0)
    replay.insert(tag_block(1, 0, 2))
    batch = replay.sample(2, 1)
    replay.write(batch.stream_id, batch.handle, priority=np.array([1.0, 3.0]))
    replay.insert(tag_block(2, 0, 1))
    batch = replay.shards[0].sample(300, 1)
    assert starts_of(batch)[0] == (2, 0)
    literal = {(1, 0): 7 / 3, (1, 1): 7 / 9, (2, 0): 7 / 9}  # N = 3, densities 1, 3, 3
    np.testing.assert_allclose(batch.weight[0], 1.0)
    np.testing.assert_allclose(batch.weight[1:], [literal[start] for start in starts_of(batch)[1:]], rtol=1e-6)


def test_each_stream_of_many_shards_is_taken_once() -> None:
    replay = make_replay(ONLINE, shards=3)
    taken: set[Start] = set()
    for first in range(0, 120, 12):
        for stream in range(5):
            replay.insert(tag_block(stream, first, 12))
        for shard in replay.shards:
            complete = {(stream, step) for stream in shard.streams() for step in range(0, first + 5, 8)}
            fresh = complete - taken
            if complete:
                batch = starts_of(shard.sample(len(fresh) + 3, 8))
                assert set(batch[: len(fresh)]) == fresh
            taken |= complete
    assert len(taken) == 5 * 15


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Inserts (stream, steps) and takes (count, length)."""
    insert = st.tuples(st.just("insert"), st.integers(0, 3), st.integers(1, 11))
    take = st.tuples(st.just("take"), st.integers(1, 6), st.integers(1, 6))
    return draw(st.lists(st.one_of(insert, insert, take), max_size=60))


def expected_left(store: ChunkStore, cursor: dict[int, int], length: int, stride: int) -> int:
    left = 0
    for stream, (start, end) in store.streams().items():
        at = max(start, cursor.get(stream, 0))
        while at + length <= end:
            left += 1
            at += stride
    return left


@settings(max_examples=300, deadline=None)
@given(histories(), st.booleans(), st.booleans())
def test_any_history_takes_each_start_at_most_once_and_loses_only_what_was_evicted(
    history: list[tuple[str, int, int]], overlapping: bool, restore: bool
) -> None:
    """Against a plain model: a cursor per stream; over chunks of 4 steps, 5 of them, and changing lengths."""
    store = ChunkStore(Schema.of(tag_block(0, 0, 1).data), 5 * 4 * STEP_BYTES, 4)
    queue = QueueSelector(store, overlapping)
    store.listeners.append(queue)
    ends: dict[int, int] = {}
    cursor: dict[int, int] = {}
    rng = np.random.default_rng(0)
    for name, a, b in history:
        if name == "insert":
            first = ends.get(a, 0)
            block = tag_block(a, first, b)
            store.append(a, first, 0, block.data)
            ends[a] = first + b
        else:
            count, length = a, b
            stride = 1 if overlapping else length
            left = expected_left(store, cursor, length, stride)
            assert queue.mass(length) == left
            if restore:
                queue = restored(queue, store, overlapping)
            chunk, offset = queue.draw(rng, count, length)
            assert len(chunk) == min(count, left)
            for c, o in zip(chunk.tolist(), offset.tolist(), strict=True):
                stream, step = int(store.stream_id[c]), int(store.start[c]) + o
                start, end = store.streams()[stream]
                assert step == max(start, cursor.get(stream, 0))  # the next one of its stream
                assert step + length <= end
                cursor[stream] = step + stride
            assert queue.mass(length) == left - len(chunk)


def restored(queue: QueueSelector, store: ChunkStore, overlapping: bool) -> QueueSelector:
    copy = QueueSelector(store, overlapping)
    state: dict[str, Any] = queue.state_arrays()
    copy.load_arrays(state)
    store.listeners[:] = [copy]
    return copy


def test_a_queue_that_is_never_read_forgets_what_was_evicted() -> None:
    replay = make_replay(FIFO, chunks=4)
    for first in range(0, 10_000, 10):
        for stream in range(2):
            replay.insert(tag_block(stream, first, 10))
    queue = replay.shards[0]._views["train"]._parts["fifo"]  # type: ignore[union-attr]
    assert isinstance(queue, QueueSelector)
    assert len(queue.state_arrays()["run_span"]) <= 8
    assert replay.masses(4)[1] == replay.num_items(4)
