import numpy as np
import pytest

from actors.replay.config import ReplayConfig
from actors.replay.flow.routing import route, route_many
from actors.replay.shard import ReplayShard
from actors.replay.sharded import ShardedReplay
from actors.replay.store.schema import Schema
from tests.actors.replay.blocks import STEP_BYTES, tag_block
from tests.fakes import check_sequences, counter_blocks


def make_shard(chunks: int = 8, chunk_steps: int = 16, seed: int = 0) -> ReplayShard:
    return ReplayShard(ReplayConfig(1, chunks * chunk_steps * STEP_BYTES, chunk_steps), seed)


def test_retried_block_is_acknowledged_and_not_stored() -> None:
    shard = make_shard()
    assert shard.insert(tag_block(1, 0, 10)) == 10
    assert shard.insert(tag_block(1, 0, 10)) == 0
    assert shard.insert(tag_block(1, 4, 12)) == 6  # the overlap is dropped
    assert shard.num_steps == 16
    assert shard.stats()["duplicate_steps"] == 16
    np.testing.assert_array_equal(shard.read(1, 0, 16).data["tag"][0], 1_000_000 + np.arange(16))


def test_retry_is_recognised_after_its_steps_were_evicted() -> None:
    shard = make_shard(chunks=2)
    blocks = [tag_block(1, first, 16) for first in range(0, 96, 16)]
    for block in blocks:
        shard.insert(block)
    assert shard.streams() == {1: (64, 96)}
    assert shard.insert(blocks[0]) == 0
    assert shard.streams() == {1: (64, 96)}


def test_gap_is_refused_and_nothing_changes() -> None:
    shard = make_shard()
    shard.insert(tag_block(1, 0, 10))
    with pytest.raises(
        ValueError, match="stream 1 starts at step 12, but step 10 is the next one: 2 steps are missing"
    ):
        shard.insert(tag_block(1, 12, 10))
    with pytest.raises(ValueError, match="stream 2 starts at step 5, but step 0"):
        shard.insert(tag_block(2, 5, 10))
    assert shard.streams() == {1: (0, 10)}


def test_schema_errors_name_the_key_and_both_shapes() -> None:
    shard = make_shard()
    shard.insert(tag_block(1, 0, 4))
    other = tag_block(2, 0, 4)
    other.data["action"] = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match=r"'action' is <f4 \(2,\) per step, the replay stores <f4 \(1,\)"):
        shard.insert(other)
    other.data["action"] = np.zeros((4, 1), np.float64)
    with pytest.raises(ValueError, match=r"'action' is <f8 \(1,\) per step, the replay stores <f4 \(1,\)"):
        shard.insert(other)
    other.data["extra"] = np.zeros(4)
    with pytest.raises(ValueError, match=r"unknown \['extra'\]"):
        shard.insert(other)
    ragged = tag_block(2, 0, 4)
    ragged.data["tag"] = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match=r"'tag' has shape \(3,\), expected 4 steps"):
        shard.insert(ragged)
    objects = tag_block(2, 0, 4)
    objects.data["tag"] = np.array([None] * 4)
    with pytest.raises(ValueError, match="'tag' has dtype object"):
        shard.insert(objects)
    assert shard.streams() == {1: (0, 4)}


def test_inserted_arrays_are_copied() -> None:
    shard = make_shard()
    block = tag_block(1, 0, 16)
    shard.insert(block)
    block.data["tag"][:] = -1
    assert shard.read(1, 0, 16).data["tag"].min() == 1_000_000
    shard.sample(2, 4).data["tag"][:] = -1
    assert shard.read(1, 0, 16).data["tag"].min() == 1_000_000


@pytest.mark.parametrize("seed", range(5))
def test_byte_bound_is_exact_for_blocks_of_any_length(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shard = make_shard(chunks=7)
    bound = 7 * 16 * STEP_BYTES
    next_step = np.zeros(5, int)
    for _ in range(300):
        stream = int(rng.integers(5))
        steps = int(rng.integers(1, 50))
        shard.insert(tag_block(stream, int(next_step[stream]), steps))
        next_step[stream] += steps
        assert shard.nbytes <= bound
        for stream_id, (start, end) in shard.streams().items():
            assert end == next_step[stream_id]
            tags = shard.read(stream_id, start, end - start).data["tag"][0]
            np.testing.assert_array_equal(tags, stream_id * 1_000_000 + np.arange(start, end))
    assert shard.nbytes == bound  # all of it is used
    assert shard.stats()["inserted_steps"] - shard.stats()["evicted_steps"] == shard.num_steps


def test_a_bound_of_less_than_two_chunks_is_refused() -> None:
    with pytest.raises(ValueError, match="raise max_bytes or lower chunk_steps"):
        make_shard(chunks=1).insert(tag_block(1, 0, 4))


@pytest.mark.parametrize("length", [1, 5, 16, 40])
def test_every_valid_start_is_equally_likely_after_evictions(length: int) -> None:
    """Chi-square through the public API over all starts of unequal streams."""
    shard = make_shard(chunks=12, seed=3)
    for first in range(0, 320, 40):
        shard.insert(tag_block(1, first, 40))
        shard.insert(tag_block(2, first // 4, 10))
    shard.insert(tag_block(3, 0, 17))
    assert shard.stats()["evicted_steps"] > 0
    valid = [
        (stream_id, step)
        for stream_id, (start, end) in shard.streams().items()
        for step in range(start, end - length + 1)
    ]
    assert shard.num_items(length) == len(valid)
    assert shard.masses(length).tolist() == [len(valid)]
    counts = dict.fromkeys(valid, 0)
    draws = 400 * len(valid)
    for _ in range(20):
        batch = shard.sample(draws // 20, length)
        np.testing.assert_array_equal(np.diff(batch.data["tag"], axis=1), 1)
        np.testing.assert_array_equal(
            batch.data["tag"][:, 0], batch.stream_id.astype(np.int64) * 1_000_000 + batch.first_step
        )
        for stream_id, step in zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True):
            counts[stream_id, step] += 1
    observed = np.array(list(counts.values()))
    expected = observed.sum() / len(valid)
    chi2 = ((observed - expected) ** 2 / expected).sum()
    freedom = len(valid) - 1
    assert abs(chi2 - freedom) < 4.5 * np.sqrt(2 * freedom)


def test_sequences_cross_chunks_and_episode_ends() -> None:
    shard = ReplayShard(ReplayConfig(1, 1 << 22, 50), 1)
    for block in counter_blocks(7, 8):
        shard.insert(block)
    batch = shard.sample(64, 170)
    check_sequences(batch)
    assert batch.data["is_first"][:, 1:].any(axis=1).all()
    assert batch.weight.tolist() == [1.0] * 64


def test_policy_version_is_that_of_the_first_step() -> None:
    shard = make_shard()
    shard.insert(tag_block(1, 0, 10, version=3))
    shard.insert(tag_block(1, 10, 10, version=8))
    batch = shard.sample(200, 4)
    np.testing.assert_array_equal(batch.policy_version, np.where(batch.first_step < 10, 3, 8))


def test_handles_of_evicted_steps_are_recognised() -> None:
    shard = make_shard(chunks=4)
    shard.insert(tag_block(1, 0, 64))
    batch = shard.sample(50, 2)
    assert shard.valid(batch.handle).all()
    shard.insert(tag_block(1, 64, 32))  # recycles the two oldest chunks
    np.testing.assert_array_equal(shard.valid(batch.handle), batch.first_step >= 32)
    assert not shard.valid(np.array([[-1, 0, 0], [99, 0, 0], [0, 16, 1]])).any()


def test_sampling_from_nothing_says_so() -> None:
    shard = make_shard()
    with pytest.raises(ValueError, match="no sequence of 8 steps is stored; the shard holds 0 steps"):
        shard.sample(1, 8)
    shard.insert(tag_block(1, 0, 7))
    with pytest.raises(ValueError, match="no sequence of 8 steps is stored; the shard holds 7 steps"):
        shard.sample(1, 8)
    with pytest.raises(ValueError, match="batch_size and length must be positive, got 0 and 8"):
        shard.sample(0, 8)


def fill(replay: ReplayShard | ShardedReplay, begin: int, end: int) -> None:
    for first in range(begin, end, 10):
        for stream in range(4):
            replay.insert(tag_block(stream, first, 10))


def test_equal_seeds_sample_equally_and_others_do_not() -> None:
    shards = [make_shard(seed=s) for s in (1, 1, 2)]
    for shard in shards:
        fill(shard, 0, 100)
    a, b, c = (shard.sample(8, 12) for shard in shards)
    np.testing.assert_array_equal(a.handle, b.handle)
    assert not np.array_equal(a.handle, c.handle)


@pytest.mark.parametrize("mixed", [False, True])
def test_sharded_replay_samples_every_start_equally(mixed: bool) -> None:
    config = ReplayConfig(3, 3 * 12 * 16 * STEP_BYTES, 16, mixed_batches=mixed)
    replay = ShardedReplay.from_config(config, seed=8)
    for stream in range(7):
        replay.insert(tag_block(stream, 0, 10 + 9 * stream))
    assert sum(shard.num_steps > 0 for shard in replay.shards) == 3
    valid = [(s, step) for s, (start, end) in replay.streams().items() for step in range(start, end - 7)]
    assert replay.num_items(8) == len(valid)
    counts = dict.fromkeys(valid, 0)
    for _ in range(6000):
        batch = replay.sample(4, 8)
        for item in zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True):
            counts[item] += 1
    observed = np.array(list(counts.values()))
    expected = observed.sum() / len(valid)
    chi2 = ((observed - expected) ** 2 / expected).sum()
    # A batch from one shard has correlated rows: its starts still have the right mean, with more variance.
    slack = 4.5 if mixed else 9
    assert abs(chi2 - len(valid)) < slack * np.sqrt(2 * len(valid))


def test_routing_is_even_and_fixed() -> None:
    ids = [actor << 43 | env for actor in range(4) for env in range(16)]
    counts = np.bincount([route(i, 4) for i in ids], minlength=4)
    assert counts.min() >= 10
    assert [route(i, 2) for i in (0, 1, 2, 3, 1 << 43)] == [0, 1, 0, 1, 0]
    assert {route(i, 2) for i in range(4)} == {0, 1}
    assert route_many(np.array(ids, np.uint64), 5).tolist() == [route(i, 5) for i in ids]


def test_schema_hash_is_stable_and_depends_on_every_part() -> None:
    data = tag_block(0, 0, 2).data
    schema = Schema.of(data)
    assert schema == Schema.from_lists(schema.as_lists())
    assert schema.hash == Schema.of(dict(reversed(data.items()))).hash
    assert schema.hash != Schema.of(data | {"tag": data["tag"].astype(np.int32)}).hash
    assert schema.step_bytes == STEP_BYTES - 8
