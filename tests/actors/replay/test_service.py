"""Shard actors on Ray: transports, deaths while sampling and inserting, and the object store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.config import DurabilityConfig, ReplayConfig
from actors.replay.draw.kinds import MixtureConfig
from actors.replay.flow.batches import ShardUnavailable, Transport
from actors.replay.flow.credits import MessageWindow
from actors.replay.flow.routing import route
from actors.replay.wire.blocks import encode_blocks
from actors.replay.wire.buffers import SharedBuffer, SharedBufferPool
from actors.rollout import RolloutLoop, pack_stream_id
from envs.scratch import SHARED_MEMORY
from envs.testing.counter import CounterVectorEnv
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch
from tests.fakes import CheckingPolicy, check_sequences, counter_blocks

ray = pytest.importorskip("ray")

from actors.replay.flow.service import RayInserts, RemoteBatches  # noqa: E402
from actors.replay.service import (  # noqa: E402
    CONCURRENCY_GROUPS,
    ReplayShardActor,
    begin_checkpoint,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

CONFIG = ReplayConfig(num_shards=2, max_bytes=1 << 24, chunk_steps=512)
STREAMS = range(8)


def start(cls: type, *args: Any, max_restarts: int = 0) -> Any:
    remote = ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(cls)
    return remote.options(num_cpus=0, max_restarts=max_restarts).remote(*args)


@pytest.fixture
def shards() -> Iterator[list[Any]]:
    """Two shards, restarted when they die, with the streams routed to them."""
    handles = [start(ReplayShardActor, CONFIG, seed, seed, max_restarts=-1) for seed in range(2)]
    for stream in STREAMS:
        ray.get(insert(handles, stream))
    yield handles
    for handle in handles:
        ray.kill(handle)


def insert(handles: list[Any], stream: int) -> Any:
    return handles[route(stream, len(handles))].insert.remote(*encode_blocks(counter_blocks(stream, 4)))


def share_of(shard: int, batches: list[SequenceBatch]) -> float:
    return float(np.mean([route(s, 2) == shard for batch in batches for s in batch.stream_id.tolist()]))


def until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"


@pytest.mark.parametrize("mixed", [False, True])
def test_slots_and_objects_bring_the_stored_steps_with_equal_frequencies(shards: list[Any], mixed: bool) -> None:
    starts: dict[str, NDArray[np.int64]] = {}
    for transport in ("slots", "objects"):
        batches = RemoteBatches(shards, 16, 30, seed=3, in_flight=3, mixed=mixed, transport=transport)
        counts = np.zeros((len(STREAMS), 256 - 29), np.int64)
        for number in range(100):
            batch = next(batches)
            check_sequences(batch)
            np.add.at(counts, (batch.stream_id.astype(np.int64), batch.first_step), 1)
            if number % 20 == 0:  # what arrives is what is stored
                stream, first = int(batch.stream_id[5]), int(batch.first_step[5])
                stored = ray.get(shards[route(stream, 2)].read.remote(stream, first, 30))
                for key, value in stored.data.items():
                    np.testing.assert_array_equal(batch.data[key][5], value[0])
                assert stored.handle.tolist() == batch.handle[5:6].tolist()
        starts[transport] = counts
        stats = batches.stats()
        assert stats["retries"] == 0
        assert (stats["slot_bytes"] > 0) == (transport == "slots") == (stats["object_bytes"] == 0)
        batches.close()
    for counts in starts.values():  # 1600 draws over 8 streams, and over quarters of the starts
        assert counts.sum() == 1600
        slack = 95 if mixed else 220  # rows of one batch have their shard in common
        assert np.abs(counts.sum(1) - 200).max() < slack
        np.testing.assert_allclose([q.sum() for q in np.array_split(counts, 4, axis=1)], 400, atol=108)


def test_a_killed_shard_leaves_the_draw_and_returns(shards: list[Any]) -> None:
    batches = RemoteBatches(shards, 8, 30, seed=0, in_flight=4)
    for _ in range(20):
        next(batches)
    ray.kill(shards[0], no_restart=False)
    killed, longest, after = time.monotonic(), 0.0, []
    while batches.stats()["shards_left"] == 0:
        before = time.monotonic()
        after.append(next(batches))
        longest = max(longest, time.monotonic() - before)
        check_sequences(after[-1])
        assert time.monotonic() < killed + 30
    assert longest < 10.0
    rest = [next(batches) for _ in range(60)]
    assert share_of(0, rest[4:]) == 0.0
    until(lambda: bool(next(batches) and batches.present[0]))  # it is back, and empty
    assert share_of(0, [next(batches) for _ in range(30)]) == 0.0
    ray.get([insert(shards, stream) for stream in STREAMS])
    until(lambda: share_of(0, [next(batches)]) == 1.0)
    again = []
    for _ in range(100):
        again.append(next(batches))
        check_sequences(again[-1])
    assert share_of(0, again) == pytest.approx(0.5, abs=0.2)
    assert batches.stats()["retries"] >= 1


def test_all_shards_gone_for_good_is_a_clear_error(shards: list[Any]) -> None:
    batches = RemoteBatches(shards, 8, 30, seed=0, wait_seconds=1.0)
    next(batches)
    for shard in shards:
        ray.kill(shard)
    with pytest.raises(
        TimeoutError, match=r"none of the 2 shards .*: shard 0 does not answer, shard 1 does not answer"
    ):
        [next(batches) for _ in range(20)]


def make_loop(actor: int) -> RolloutLoop:
    return RolloutLoop(CounterVectorEnv(4), CheckingPolicy(), seed=11, actor=actor)


def check_ledger(handles: list[Any], num_actors: int, ticks: int) -> float:
    """Assert that the shards hold every step of the actors once; the number of repeated steps."""
    spans: dict[int, tuple[int, int]] = {}
    for index, shard in enumerate(handles):
        for stream, (begin, end) in ray.get(shard.streams.remote()).items():
            assert route(stream, len(handles)) == index
            check_sequences(ray.get(shard.read.remote(stream, begin, end - begin)))
            spans[stream] = (begin, end)
    expected = {pack_stream_id(actor, 0, env) for actor in range(num_actors) for env in range(4)}
    assert spans == dict.fromkeys(expected, (0, ticks))
    stats = ray.get([shard.stats.remote() for shard in handles])
    assert sum(row["steps"] for row in stats) == len(expected) * ticks
    return float(sum(row["duplicate_steps"] for row in stats))


def kill_while_inserting(handles: list[Any], kills: int, leases: int, ticks: int) -> tuple[int, int]:
    """Run two rollout actors of four environments while shards are killed; the steps taken and those acknowledged."""
    from actors.service import RolloutActor

    actors = [ray.remote(RolloutActor).options(num_cpus=0).remote(partial(make_loop, a), handles) for a in range(2)]
    rng = np.random.default_rng(0)
    acknowledged = taken = 0
    for lease in range(leases):
        runs = [actor.run.remote(ticks) for actor in actors]
        if lease % (leases // kills) == 1:
            time.sleep(rng.random() * 0.2)
            ray.kill(handles[int(rng.integers(2))], no_restart=False)
        for summary in ray.get(runs, timeout=120):
            acknowledged += summary.acknowledged
            taken += summary.steps
    acknowledged += sum(ray.get([actor.flush.remote() for actor in actors], timeout=120))
    for actor in actors:
        ray.kill(actor)
    return taken, acknowledged


def test_durable_shards_killed_while_inserting_lose_and_double_nothing(tmp_path: Path) -> None:
    config = ReplayConfig(2, 1 << 24, 512, durability=DurabilityConfig("sync"))
    handles = [start(ReplayShardActor, config, i, i, str(tmp_path / f"{i}"), max_restarts=-1) for i in range(2)]
    taken, acknowledged = kill_while_inserting(handles, kills=2, leases=4, ticks=256)
    assert acknowledged == taken == 2 * 4 * 256 * 4
    check_ledger(handles, 2, 256 * 4)
    for handle in handles:
        ray.kill(handle)


def test_checkpoints_are_written_while_the_shards_serve(tmp_path: Path) -> None:
    config = ReplayConfig(2, 1 << 24, 512, durability=DurabilityConfig("async"))
    handles = [start(ReplayShardActor, config, i, i, str(tmp_path / f"{i}")) for i in range(2)]
    ray.get([insert(handles, stream) for stream in STREAMS])
    assert len(ray.get(begin_checkpoint(handles, "one"))) == 2
    ray.get([handle.retain.remote(["one"]) for handle in handles])
    before = [ray.get(handle.next_steps.remote()) for handle in handles]
    for handle in handles:
        ray.kill(handle)
    again = [start(ReplayShardActor, config, i, i, str(tmp_path / f"{i}"), "one") for i in range(2)]
    assert [ray.get(handle.next_steps.remote()) for handle in again] == before
    with pytest.raises(ShardUnavailable, match="shard 0 was restarted after checkpoint two was begun"):
        ray.get(again[0].checkpoint_wait.remote("two"))
    for handle in again:
        ray.kill(handle)


def test_a_restarted_shard_refuses_messages_for_its_predecessor() -> None:
    handle = start(ReplayShardActor, CONFIG, 0, 0, max_restarts=1)
    message = encode_blocks(counter_blocks(0, 1))
    session = ray.get(handle.session.remote())
    assert ray.get(handle.insert.remote(*message, session)) == 64
    ray.kill(handle, no_restart=False)
    until(lambda: _answer(handle, "session") not in (None, session))
    with pytest.raises(ShardUnavailable, match="shard 0 was restarted after the message was sent"):
        ray.get(handle.insert.remote(*message, session))
    assert ray.get(handle.insert.remote(*message)) == 64
    ray.kill(handle)


def picture_block(step: int) -> Block:
    """64 steps of the counting stream 0, with pictures that make them a large message."""
    (block,) = counter_blocks(0, 1)
    frames = np.random.default_rng(step).integers(0, 256, (64, 40, 40), np.uint8)
    steps = np.arange(step, step + 64)
    data = block.data | {"image": frames, "episode": steps, "is_first": steps == 0}
    return Block(0, step, 0, data)


@pytest.mark.parametrize("way", ["memory", "objects", "memory, then objects"])
def test_large_messages_survive_a_shard_that_is_killed(tmp_path: Path, way: str) -> None:
    config = ReplayConfig(1, 1 << 24, 512, durability=DurabilityConfig("sync"))
    handle = start(ReplayShardActor, config, 0, 0, str(tmp_path / "shard"), max_restarts=-1)
    box = SharedBufferPool() if way != "objects" else None
    port = RayInserts(handle, box)
    window = MessageWindow(port, 4, 1 << 30)
    acknowledged, packed = 0, []
    for number in range(24):
        message = port.message([picture_block(64 * number)])
        packed.append(isinstance(message.payload, SharedBuffer))
        acknowledged += window.send(message)
        if number == 10:
            if box is not None and way != "memory":  # the restarted shard looks like one on another node
                box._mark.path.rename(box._mark.path.with_name("worldfleet-buffer-moved"))
            ray.kill(handle, no_restart=False)
            acknowledged += window.settle(wait=True)
    acknowledged += window.settle(wait=True)
    assert acknowledged == 24 * 64
    assert set(packed[:11]) == {way != "objects"}
    assert packed[-1] == (way == "memory")
    if box is not None:
        assert len(box._free) <= 5  # those that were on the way at once
        box.close()
        (SHARED_MEMORY / "worldfleet-buffer-moved").unlink(missing_ok=True)
    assert ray.get(handle.streams.remote()) == {0: (0, 24 * 64)}
    stored = ray.get(handle.read.remote(0, 0, 24 * 64)).data["image"][0]
    for number in range(24):
        np.testing.assert_array_equal(stored[64 * number : 64 * number + 64], picture_block(64 * number).data["image"])
    ray.kill(handle)


def test_a_dead_shard_without_restarts_is_an_error_of_the_sender() -> None:
    from actors.service import RolloutActor

    handles = [start(ReplayShardActor, CONFIG, i, i) for i in range(2)]
    actor = ray.remote(RolloutActor).options(num_cpus=0).remote(partial(make_loop, 0), handles)
    ray.get(actor.run.remote(64))
    for handle in handles:
        ray.kill(handle)
    with pytest.raises(ray.exceptions.RayActorError):
        [ray.get(actor.run.remote(64), timeout=60) for _ in range(10)]
    ray.kill(actor)


class Rank:
    """A learner rank that holds one batch."""

    def __init__(self, shards: list[Any], rank: int) -> None:
        self._batches = RemoteBatches(shards, 4, 10, seed=rank)

    def check(self, number: int) -> NDArray[np.int64]:
        for _ in range(number):
            batch = next(self._batches)
            check_sequences(batch)
        return batch.handle

    def files(self) -> list[str]:
        stem = f"-{os.getpid()}-"
        return [path.name for path in SHARED_MEMORY.glob("worldfleet-slot-*") if stem in path.name]


def test_two_ranks_sample_at_once_from_slots_of_their_own(shards: list[Any]) -> None:
    ranks = [ray.remote(Rank).options(num_cpus=0).remote(shards, rank) for rank in range(2)]
    handles = ray.get([rank.check.remote(100) for rank in ranks])
    assert not np.array_equal(*handles)
    files = ray.get([rank.files.remote() for rank in ranks])
    assert [len(names) for names in files] == [3, 3]
    assert not set(files[0]) & set(files[1])
    ray.kill(ranks[0])  # leaves its slots behind, until the next learner comes
    until(lambda: _answer(ranks[0], "files") is None)
    survivor = ray.remote(Rank).options(num_cpus=0).remote(shards, 2)
    ray.get(survivor.check.remote(1))
    left = {path.name for path in SHARED_MEMORY.glob("worldfleet-slot-*")}
    assert not left & set(files[0])
    assert set(files[1]) <= left
    for rank in (ranks[1], survivor):
        ray.kill(rank)


def _answer(actor: Any, method: str) -> Any:
    """What a method without arguments returns, None if the actor is away."""
    try:
        return ray.get(getattr(actor, method).remote(), timeout=30)
    except ray.exceptions.RayActorError:
        return None


def test_write_backs_reaches_the_shards_and_failures_are_only_counted(shards: list[Any]) -> None:
    batches = RemoteBatches(shards, 8, 30, seed=0, mixed=True)
    for _ in range(5):
        batch = next(batches)
        batches.write_back(batch, UpdateResult({}, np.ones(8, np.float32), {"nothing": np.zeros((8, 30), np.float32)}))
    batches._writebacks.settle()
    stats = batches.stats()
    assert 5 <= stats["writeback_calls"] <= 10  # one for every shard that a batch is from
    assert stats["writeback_failed"] == stats["writeback_calls"]  # no shard has such a key


@pytest.mark.parametrize("transport", ["slots", "objects"])
def test_a_second_reader_takes_nothing_from_the_online_queue(transport: Transport) -> None:
    online = MixtureConfig(online=True)
    config = ReplayConfig(2, 1 << 24, 512, online, views={"reanalyze": online})
    handles = [start(ReplayShardActor, config, seed, seed) for seed in range(2)]
    for stream in STREAMS:
        ray.get(insert(handles, stream))
    everything = {(stream, step) for stream in STREAMS for step in range(0, 256, 32)}
    for view in ("reanalyze", "train"):
        batches = RemoteBatches(handles, 16, 32, seed=0, transport=transport, view=view)
        seen = set()
        for _ in range(30):
            batch = next(batches)
            check_sequences(batch)
            seen |= set(zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True))
        assert everything <= seen
        batches.close()
    with pytest.raises(ValueError, match="the replay has no view 'other'; it has train, reanalyze"):
        next(RemoteBatches(handles, 16, 32, seed=0, view="other"))
    for handle in handles:
        ray.kill(handle)


@pytest.mark.parametrize("transport", ["slots", "objects"])
def test_the_object_store_does_not_grow(shards: list[Any], transport: str) -> None:
    from actors.service import RolloutActor

    actor = ray.remote(RolloutActor).options(num_cpus=0).remote(partial(make_loop, 7), shards)
    batches = RemoteBatches(shards, 16, 60, seed=0, in_flight=3, transport=transport)
    used = []
    for number in range(240):
        next(batches)
        if number % 40 == 39:
            ray.get(actor.run.remote(128))
            used.append(_store())
    objects, size = zip(*used, strict=True)
    assert max(objects[1:]) <= objects[0] + 4
    assert max(size[1:]) <= size[0] + (2 << 20)
    batches.close()
    ray.kill(actor)


def _store() -> tuple[int, int]:
    """Objects in the store and their bytes."""
    from ray._private.internal_api import node_stats

    node = ray.nodes()[0]
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats
    return stats.num_local_objects, stats.object_store_bytes_used
