"""What goes back into a sharded replay, and its resumption with every selector at work."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import SelectorConfig
from actors.replay.draw.mixture import effective_fractions, selector_fractions
from actors.replay.sharded import ShardedReplay, draw_shard, shard_probabilities
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch
from tests.actors.replay.blocks import mixture, starts_of, tag_block

EVERYTHING = mixture(uniform=0.25, prioritized=0.25, recency=0.25, fifo=0.25, online=True)


def latent_block(stream: int, first: int, steps: int) -> Block:
    block = tag_block(stream, first, steps)
    return Block(stream, first, 0, block.data | {"latent": np.zeros((steps, 3), np.float32)})


def make_replay(
    selector: SelectorConfig, shards: int = 2, seed: int = 1, mixed: bool = False, size: int = 20_000
) -> ShardedReplay:
    return ShardedReplay.from_config(ReplayConfig(shards, shards * size, 16, selector, mixed), seed)


def fill(replay: ShardedReplay, begin: int, end: int, streams: int = 6) -> None:
    for first in range(begin, end, 10):
        for stream in range(streams):
            replay.insert(latent_block(stream, first, 10))


def test_shards_are_drawn_by_the_stated_formula() -> None:
    masses = np.array([[1.0, 6.0, 0.0], [3.0, 2.0, 0.0]])
    fractions = np.array([0.2, 0.4, 0.4])
    # The third component has no mass: 1/3 uniform and 2/3 by the second.
    expected = [1 / 3 * 1 / 4 + 2 / 3 * 6 / 8, 1 / 3 * 3 / 4 + 2 / 3 * 2 / 8]
    np.testing.assert_allclose(shard_probabilities(masses, fractions), expected)
    rng = np.random.default_rng(0)
    drawn = np.mean([draw_shard(rng, masses, fractions) for _ in range(20_000)])
    assert abs(drawn - expected[1]) < 4.5 * np.sqrt(expected[0] * expected[1] / 20_000)
    assert effective_fractions([5.0, 0.0], [0.0, 1.0]) == [1, 0]
    assert effective_fractions([0.0, 0.0], [0.5, 0.5]) == [0, 0]
    with pytest.raises(ValueError, match="none of the 2 shards holds a sequence of the asked length"):
        draw_shard(rng, np.zeros((2, 3)), fractions)
    assert selector_fractions(mixture()).tolist() == [1]
    assert selector_fractions(mixture(uniform=0.5, recency=0.5)).tolist() == [0.5, 0.5]


def test_a_shard_without_mass_is_never_drawn() -> None:
    rng = np.random.default_rng(1)
    masses = np.array([[0.0], [3.0], [0.0]])
    assert {draw_shard(rng, masses, np.ones(1)) for _ in range(200)} == {1}


@pytest.mark.parametrize("mixed", [False, True])
def test_write_backs_reaches_the_right_shards(mixed: bool) -> None:
    replay = make_replay(mixture(uniform=0.5, prioritized=0.5, priority_exponent=1.0), 3, mixed=mixed)
    fill(replay, 0, 40)
    for k in range(20):
        batch = replay.sample(4, 20)
        latent = (batch.data["tag"][..., None] + np.array([0.0, 0.25, 0.5]) + k).astype(np.float32)
        replay.write_back(batch, UpdateResult({}, np.full(4, 7.0, np.float32), {"latent": latent}))
        for row, (stream, step) in enumerate(starts_of(batch)):
            stored = replay.read(stream, step, 20).data["latent"][0]
            last = max(r for r, other in enumerate(starts_of(batch)) if other[0] == stream and other[1] == step)
            overlapped = [o for o in starts_of(batch)[row + 1 :] if o[0] == stream and o[1] != step]
            if not overlapped:
                np.testing.assert_array_equal(stored, latent[last])
    known = replay.masses(20)[1]
    assert known > replay.num_items(20)  # priorities of 7 among those of 1
    assert replay.stats()["stale_writes"] == replay.stats()["stale_updates"] == 0
    replay.write_back(batch, UpdateResult({}))
    assert replay.masses(20)[1] == known


def test_late_writes_follow_the_chunks_and_leave_the_rest_alone() -> None:
    replay = make_replay(mixture(), 1)
    fill(replay, 0, 60, 2)
    sequence = replay.read(1, 10, 40)  # chunks of 16 steps: crosses three borders
    values = np.arange(120, dtype=np.float32).reshape(1, 40, 3)
    assert replay.write(sequence.stream_id, sequence.handle, {"latent": values}) == 1
    np.testing.assert_array_equal(replay.read(1, 10, 40).data["latent"], values)
    everything = [replay.read(stream, 0, 60).data["latent"].sum() for stream in (0, 1)]
    assert everything == [0, values.sum()]
    assert replay.shards[0]._store is not None
    assert replay.shards[0]._store.rewrites.keys == {"latent"}


def test_writes_to_evicted_sequences_are_counted_and_ignored() -> None:
    replay = make_replay(mixture(), 1, size=16 * 60 * 6)
    fill(replay, 0, 60, 1)
    old = replay.sample(30, 4)
    before = replay.stats()["evicted_steps"]
    fill(replay, 60, 120, 1)
    assert replay.stats()["evicted_steps"] > before
    start = replay.streams()[0][0]
    stale = int((old.first_step < start).sum())
    assert 0 < stale < 30
    assert replay.write(old.stream_id, old.handle, {"latent": np.ones((30, 4, 3), np.float32)}) == 30 - stale
    assert replay.stats()["stale_writes"] == stale
    written = replay.read(0, start, 120 - start).data["latent"][0, :, 0] == 1
    expected = {step + k for step in old.first_step.tolist() for k in range(4) if step >= start}
    assert set((np.flatnonzero(written) + start).tolist()) == expected


def test_writes_that_do_not_fit_are_refused() -> None:
    replay = make_replay(mixture(), 1)
    fill(replay, 0, 20, 1)
    batch = replay.read(0, 0, 4)
    stream, handle = batch.stream_id, batch.handle
    with pytest.raises(ValueError, match=r"key 'target' is not stored; stored are \['action', .*'latent'"):
        replay.write(stream, handle, {"target": np.ones((1, 4), np.float32)})
    with pytest.raises(ValueError, match=r"'latent' have shape \(1, 4, 2\), expected \(B, T\) and then \(3,\)"):
        replay.write(stream, handle, {"latent": np.ones((1, 4, 2), np.float32)})
    with pytest.raises(ValueError, match="'episode' are float32, the replay stores int64"):
        replay.write(stream, handle, {"episode": np.ones((1, 4), np.float32)})
    with pytest.raises(ValueError, match="21 values of 'latent' run past the end of stream 0"):
        replay.write(stream, handle, {"latent": np.ones((1, 21, 3), np.float32)})
    with pytest.raises(ValueError, match=r"expected values of 1 sequences, got 'latent' of shape \(2, 4, 3\)"):
        replay.shards[0].write(handle, {"latent": np.ones((2, 4, 3), np.float32)})
    assert replay.read(0, 0, 20).data["latent"].max() == 0


def same(a: SequenceBatch, b: SequenceBatch) -> None:
    for name in ("stream_id", "first_step", "policy_version", "weight", "handle"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for key in a.data:
        np.testing.assert_array_equal(a.data[key], b.data[key], err_msg=key)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_replay_with_every_selector_resumes_exactly(tmp_path: Path, mixed: bool) -> None:
    config = ReplayConfig(2, 2 * 60 * 16 * 20, 16, EVERYTHING, mixed)
    one = ShardedReplay.from_config(config, 1, tmp_path / "one")
    rng = np.random.default_rng(0)

    def train(replay: ShardedReplay, batch: SequenceBatch, priorities: np.ndarray) -> None:
        latent = np.broadcast_to(priorities.astype(np.float32)[:, None, None], (*batch.shape, 3))
        replay.write_back(batch, UpdateResult({}, priorities, {"latent": latent}))

    for first in range(0, 200, 10):
        fill(one, first, first + 10)
        if first >= 20:
            train(one, one.sample(8, 7), rng.random(8) * 3)
    assert one.stats()["evicted_steps"] > 0
    one.checkpoint("here")
    copy = shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = ShardedReplay.from_config(config, 2, copy, restore="here", tail=False)
    for first in range(200, 300, 10):
        for replay in (one, two):
            fill(replay, first, first + 10)
        length = 7 if first < 250 else 5
        a, b = one.sample(8, length), two.sample(8, length)
        same(a, b)
        priorities = rng.random(8) * 5
        for replay in (one, two):
            train(replay, a, priorities)
        np.testing.assert_array_equal(one.masses(length), two.masses(length))
    for replay in (one, two):
        replay.close()
