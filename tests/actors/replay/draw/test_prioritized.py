"""Prioritized and recency sampling, seen through the sharded replay."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import TREE_BYTES, SelectorConfig, selector_bytes, takes_priorities
from actors.replay.sharded import ShardedReplay
from actors.replay.store.chunks import PRIORITY_BYTES
from tests.actors.replay.blocks import (
    STEP_BYTES,
    Start,
    chi_square,
    handles,
    mixture,
    normalised,
    tag_block,
    valid_starts,
)

PRIORITIZED = mixture(uniform=0, prioritized=1, priority_exponent=0.7, weight_exponent=0.5)


def make_replay(
    selector: SelectorConfig, shards: int = 1, chunks: int = 12, mixed: bool = False, seed: int = 0
) -> ShardedReplay:
    step_bytes = STEP_BYTES + selector_bytes(selector) + PRIORITY_BYTES * takes_priorities(selector)
    return ShardedReplay.from_config(ReplayConfig(shards, shards * chunks * 16 * step_bytes, 16, selector, mixed), seed)


def fill(replay: ShardedReplay, begin: int, end: int, streams: int = 4, block: int = 10) -> None:
    for first in range(begin, end, block):
        for stream in range(streams):
            replay.insert(tag_block(stream, first, min(block, end - first)))


def set_priorities(replay: ShardedReplay, priorities: dict[Start, float]) -> int:
    streams, handle = handles(replay, list(priorities))
    return replay.write(streams, handle, priority=np.array(list(priorities.values())))


@pytest.mark.parametrize(("mixed", "batch_size"), [(False, 1), (True, 16)])
def test_frequencies_follow_the_priorities_after_inserts_evictions_and_updates(mixed: bool, batch_size: int) -> None:
    replay = make_replay(PRIORITIZED, shards=3, chunks=6, mixed=mixed)
    rng = np.random.default_rng(5)
    length = 4
    fill(replay, 0, 60, streams=7)
    replay.sample(8, length)  # the tree is in use before the evictions
    set_priorities(replay, {start: rng.random() for start in valid_starts(replay, length)})
    fill(replay, 60, 90, streams=7)
    assert sum(shard.stats()["evicted_steps"] > 0 for shard in replay.shards) >= 2
    known = {start: float(rng.random() * 3) for start in valid_starts(replay, length) if start[1] < 70}
    known[next(iter(known))] = 0.0
    assert set_priorities(replay, known) == len(known)
    # The steps nobody updated still have the largest priority of all times, that of new steps; it was 1 or more.
    largest = max(1.0, *known.values())
    before = {start: 1.0 for start in valid_starts(replay, length)}
    weights = {start: known.get(start, before[start]) ** 0.7 for start in before}
    fill(replay, 90, 95, streams=7)
    for stream in range(7):  # the blocks that came after the updates
        for step in range(90, 92):
            weights[stream, step] = largest**0.7
        for step in range(87, 90):  # became valid, but were inserted before
            weights[stream, step] = 1.0
    valid = valid_starts(replay, length)
    expected = normalised({start: weights[start] for start in valid})
    assert chi_square(lambda: replay.sample(batch_size, length), expected, 25_000) < 4.5


@pytest.mark.parametrize("mixed", [False, True])
def test_mixture_frequencies_and_weights_agree_with_the_formula(mixed: bool) -> None:
    selector = mixture(
        uniform=0.3, prioritized=0.5, recency=0.2, priority_exponent=1.0, weight_exponent=0.6, recency_exponent=2.0
    )
    replay = make_replay(selector, shards=2, chunks=8, mixed=mixed)
    rng = np.random.default_rng(6)
    fill(replay, 0, 40, streams=5)
    valid = valid_starts(replay, 3)
    priority = {start: float(rng.random() ** 3) for start in valid}
    set_priorities(replay, priority)
    capacity = 8 * 16
    age: dict[Start, int] = {}
    for shard in replay.shards:
        mine = [stream for stream in range(5) if stream in shard.streams()]
        arrivals = [(stream, first + k) for first in range(0, 40, 10) for stream in mine for k in range(10)]
        age |= {start: len(arrivals) - 1 - place for place, start in enumerate(arrivals)}
    parts = [
        normalised(dict.fromkeys(valid, 1.0)),
        normalised(priority),
        normalised({start: math.exp(-2.0 * age[start] / capacity) for start in valid}),
    ]
    expected = {s: 0.3 * parts[0][s] + 0.5 * parts[1][s] + 0.2 * parts[2][s] for s in valid}
    assert chi_square(lambda: replay.sample(4 if mixed else 1, 3), expected, 20_000) < 4.5
    batch = replay.sample(64, 3)
    starts = list(zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True))
    weight = np.array([(len(valid) * expected[start]) ** -0.6 for start in starts])
    np.testing.assert_allclose(batch.weight, weight / weight.max(), rtol=1e-5)


def test_importance_weights_are_the_literal_ones() -> None:
    """Priorities 1, 4, 16 with alpha = beta = 1/2: densities 1, 2, 4 of 7; (3 p)^-1/2, over the largest."""
    replay = make_replay(mixture(uniform=0, prioritized=1, priority_exponent=0.5, weight_exponent=0.5))
    replay.insert(tag_block(1, 0, 4))
    set_priorities(replay, {(1, 0): 1.0, (1, 1): 4.0, (1, 2): 16.0})
    batch = replay.sample(200, 2)
    literal = np.array([1.0, 0.70710678, 0.5], np.float32)
    np.testing.assert_allclose(batch.weight, literal[batch.first_step], rtol=1e-6)
    unscaled = replay.shards[0].sample(50, 2)
    literal = np.array([1.5275252, 1.0801234, 0.7637626], np.float32)  # (7/3)^.5, (7/6)^.5, (7/12)^.5
    np.testing.assert_allclose(unscaled.weight, literal[unscaled.first_step], rtol=1e-6)
    elsewhere = replay.shards[0].sample(50, 2, totals=np.array([30.0, 70.0]))  # this shard is a tenth of the replay
    np.testing.assert_allclose(elsewhere.weight, literal[elsewhere.first_step], rtol=1e-6)
    counted = replay.shards[0].sample(50, 2, totals=np.array([30.0, 70.0]), num_items=120)
    np.testing.assert_allclose(counted.weight, literal[counted.first_step] / 2, rtol=1e-6)


def test_weights_do_not_depend_on_which_shard_holds_a_sequence() -> None:
    one, many = (make_replay(PRIORITIZED, shards=n, mixed=True) for n in (1, 3))
    rng = np.random.default_rng(8)
    weights = []
    priority = {(stream, step): float(rng.random()) for stream in range(6) for step in range(15)}
    for replay in (one, many):
        fill(replay, 0, 16, streams=6)
        set_priorities(replay, priority)
        seen: dict[Start, float] = {}
        totals = replay.masses(2)
        for shard in replay.shards:
            if shard.num_steps:
                batch = shard.sample(2000, 2, totals)
                starts = zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True)
                seen |= dict(zip(starts, batch.weight.tolist(), strict=True))
        weights.append(seen)
    shared = weights[0].keys() & weights[1].keys()
    assert len(shared) > 80
    for start in shared:
        assert weights[0][start] == pytest.approx(weights[1][start], rel=1e-5)


def test_a_sequence_can_be_drawn_as_soon_as_its_last_step_is_there() -> None:
    replay = make_replay(PRIORITIZED)
    fill(replay, 0, 6, streams=1)
    assert replay.masses(6).tolist() == [1, 1]
    fill(replay, 6, 9, streams=1)
    assert set(replay.sample(200, 6).first_step.tolist()) == {0, 1, 2, 3}


def test_another_length_moves_the_border_and_keeps_the_priorities() -> None:
    replay = make_replay(mixture(uniform=0, prioritized=1, priority_exponent=1.0))
    fill(replay, 0, 20, streams=2)
    priority = {(stream, step): 1.0 + 10 * stream + step for stream in range(2) for step in range(20)}
    set_priorities(replay, priority)
    for length in (1, 7, 3, 20, 2):
        mass = sum(p for (_, step), p in priority.items() if step + length <= 20)
        assert replay.masses(length).tolist() == [2 * (21 - length), mass]


def test_new_steps_get_the_largest_priority_there_ever_was() -> None:
    replay = make_replay(mixture(uniform=0, prioritized=1, priority_exponent=2.0))
    fill(replay, 0, 10, streams=1)
    set_priorities(replay, {(0, 3): 5.0})
    set_priorities(replay, {(0, step): 0.5 for step in range(10)})
    fill(replay, 10, 14, streams=1)
    assert replay.masses(1)[1] == 10 * 0.25 + 4 * 25


def test_updates_of_evicted_sequences_are_counted_and_ignored() -> None:
    replay = make_replay(PRIORITIZED, chunks=4)
    fill(replay, 0, 64, streams=1)
    old = replay.sample(32, 2)
    fill(replay, 64, 100, streams=1)
    stale = int((old.first_step < replay.streams()[0][0]).sum())
    assert 0 < stale < 32
    mass = replay.masses(2)[1]
    kept = ~(old.first_step < replay.streams()[0][0])
    assert replay.write(old.stream_id, old.handle, priority=np.full(32, 1.0)) == 32 - stale
    assert replay.stats()["stale_updates"] == stale
    assert replay.masses(2)[1] == mass
    replay.write(old.stream_id[~kept], old.handle[~kept], priority=np.full(stale, 9.0))
    assert replay.masses(2)[1] == mass
    assert replay.stats()["stale_updates"] == 2 * stale


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_bad_priorities_are_refused_before_any_shard_changes(bad: float) -> None:
    replay = make_replay(PRIORITIZED, shards=3)
    fill(replay, 0, 30, streams=7)
    before = replay.masses(2)
    batch = replay.sample(16, 2)
    priority = np.full(16, 7.0)
    priority[15] = bad
    with pytest.raises(ValueError, match=f"priorities must be finite and not negative, got {bad}"):
        replay.write(batch.stream_id, batch.handle, priority=priority)
    with pytest.raises(ValueError, match=r"expected 16 priorities, got an array of shape \(15,\)"):
        replay.write(batch.stream_id, batch.handle, priority=priority[:15])
    np.testing.assert_array_equal(replay.masses(2), before)


def test_a_priority_whose_power_overflows_is_refused() -> None:
    replay = make_replay(mixture(uniform=0, prioritized=1, priority_exponent=2.0))
    fill(replay, 0, 30, streams=1)
    batch = replay.sample(2, 2)
    for large in (1e153, 1e200):
        with pytest.raises(ValueError, match=r"priority 1e\+\d+ to the power 2.0 is too large to add up"):
            replay.write(batch.stream_id, batch.handle, priority=np.array([3.0, large]))
    assert replay.masses(2)[1] == 29


def test_a_total_of_zero_falls_back_to_uniform() -> None:
    replay = make_replay(PRIORITIZED, shards=2, mixed=True)
    fill(replay, 0, 20, streams=3)
    valid = valid_starts(replay, 3)
    set_priorities(replay, {(stream, step): 0.0 for stream in range(3) for step in range(20)})
    assert replay.masses(3).tolist() == [len(valid), 0]
    expected = normalised(dict.fromkeys(valid, 1.0))
    assert chi_square(lambda: replay.sample(8, 3), expected, 10_000) < 4.5
    assert replay.sample(8, 3).weight.tolist() == [1] * 8


def test_an_empty_prioritized_replay_is_still_prioritized() -> None:
    """A selector must not be taken for absent because nothing is in it yet."""
    replay = make_replay(PRIORITIZED)
    assert replay.shards[0].fractions().tolist() == [0, 1]
    fill(replay, 0, 10, streams=1)
    set_priorities(replay, {(0, step): float(step == 4) for step in range(10)})
    assert set(replay.sample(100, 2).first_step.tolist()) == {4}


def test_priorities_without_a_prioritized_component_change_nothing() -> None:
    replay = make_replay(mixture())
    fill(replay, 0, 10, streams=2)
    batch = replay.sample(4, 2)
    assert replay.write(batch.stream_id, batch.handle, priority=np.ones(4)) == 4
    assert replay.stats()["stale_updates"] == 0


def test_densities_move_to_another_store() -> None:
    one, two = (make_replay(PRIORITIZED, chunks=n) for n in (6, 9))
    for replay in (one, two):
        fill(replay, 0, 30, streams=2)
        replay.sample(1, 4)
    set_priorities(one, {(stream, step): 3.0 + stream + step for stream in range(2) for step in range(30)})
    (source,), (target,) = one.shards, two.shards
    assert source._store is not None
    assert source._views is not None
    assert target._views is not None
    rows = source._store.stored_rows()  # both stores were filled alike
    target._views.adopt(source._views.state_arrays(), rows, np.arange(len(rows)))
    for replay in (one, two):
        fill(replay, 30, 40, streams=2)
    for length in (4, 1):
        np.testing.assert_array_equal(one.masses(length), two.masses(length))


def test_memory_of_the_tree_is_part_of_the_byte_bound() -> None:
    config = ReplayConfig(1, 8 * 16 * STEP_BYTES, 16, PRIORITIZED)
    replay = ShardedReplay.from_config(config, 0)
    fill(replay, 0, 200, streams=1)
    assert replay.nbytes <= config.max_bytes
    assert replay.num_steps * (STEP_BYTES + TREE_BYTES + PRIORITY_BYTES) <= config.max_bytes


def test_recency_prefers_new_steps_by_the_stated_factor() -> None:
    replay = make_replay(mixture(uniform=0, recency=1, recency_exponent=3.0), chunks=4)
    for first in range(0, 64, 8):
        replay.insert(tag_block(0, first, 8))
    expected = normalised({(0, step): math.exp(-3.0 * (63 - step) / 64) for step in range(64)})
    assert chi_square(lambda: replay.sample(16, 1), expected, 20_000) < 4.5


@pytest.mark.parametrize("exponent", [40.0, 1000.0])
def test_recency_goes_on_however_many_steps_pass(exponent: float) -> None:
    replay = make_replay(mixture(uniform=0, recency=1, recency_exponent=exponent), chunks=4)
    for first in range(0, 3000, 5):
        replay.insert(tag_block(0, first, 5))
        batch = replay.sample(20, 5)
        assert batch.first_step.max() >= first - 3
        assert np.isfinite(batch.weight).all()
    mass = sum(math.exp(-exponent * age / 64) for age in range(64))
    assert replay.masses(1)[1] == pytest.approx(mass, rel=1e-9)


def test_masses_known_late_still_give_a_batch() -> None:
    """A caller may hold masses from before an update that took all of a component's mass from a shard."""
    replay = make_replay(PRIORITIZED)
    fill(replay, 0, 20, streams=2)
    old = replay.masses(2)
    set_priorities(replay, {(stream, step): 0.0 for stream in range(2) for step in range(20)})
    batch = replay.shards[0].sample(8, 2, totals=old)
    assert batch.weight.tolist() == [1] * 8
    for totals in (np.zeros(2), old / 10, old * 10):
        assert np.isfinite(replay.shards[0].sample(8, 2, totals=totals).weight).all()


def test_a_step_may_bring_its_first_priority() -> None:
    replay = make_replay(mixture(uniform=0, prioritized=1, priority_exponent=2.0))
    brought = np.array([1.0, 3.0, 0.5, 2.0], np.float32)
    replay.insert(replace(tag_block(0, 0, 4), priority=brought))
    assert replay.masses(1).tolist() == [4, 1 + 9 + 0.25 + 4]
    replay.insert(tag_block(0, 4, 2))  # without one: the largest so far
    assert replay.masses(1).tolist() == [6, 14.25 + 2 * 9]
    replay.insert(replace(tag_block(0, 0, 8), priority=np.full(8, 5.0, np.float32)))  # two of its steps are new
    assert replay.masses(1).tolist() == [8, 32.25 + 2 * 25]


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf, 1e31])
def test_bad_first_priorities_are_refused_with_their_block(bad: float) -> None:
    replay = make_replay(mixture(uniform=0, prioritized=1, priority_exponent=10.0))
    priority = np.array([1.0, bad], np.float32)
    with pytest.raises(ValueError, match=r"priorities must be finite|too large to add up"):
        replay.insert(replace(tag_block(0, 0, 2), priority=priority))
    assert replay.num_steps == 0
    replay.insert(tag_block(0, 0, 2))


def test_priorities_that_no_view_takes_cost_nothing() -> None:
    replay = make_replay(mixture())
    replay.insert(replace(tag_block(0, 0, 2), priority=np.ones(2, np.float32)))
    assert replay.nbytes == 16 * STEP_BYTES
