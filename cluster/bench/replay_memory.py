"""Memory of the replay: resident memory against the byte bound, and the object store over time.

The first part inserts millions of small steps into one shard of this process: episodes, blocks and streams of random
lengths, so that chunks end half full and are evicted for ever. The second samples through Ray at a modest rate and
watches what the object store holds.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing as mp
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import PrioritizedConfig, SelectorConfig, UniformConfig, takes_priorities
from actors.replay.shard import ReplayShard
from cluster.bench.replay_service import Sender, actor, ray_cluster
from cluster.bench.row import BenchRow
from envs.scratch import SHARED_MEMORY

STREAMS = 16
FRAME = (16, 16, 3)
MOST_BLOCK_STEPS = 256
EPISODE_STEPS = 200  # mean
BATCH = (16, 16)
EVERY = 256  # blocks between two looks at the resident memory, with a sample and an update of priorities

logger = logging.getLogger(__name__)


def run(steps: int = 10_000_000, megabytes: int = 256, seconds: float = 60.0, rate: float = 20.0) -> Iterator[BenchRow]:
    """Measure resident memory, then the object store.

    Args:
        steps: Steps to insert; 0 leaves this part out.
        megabytes: Byte bound of the shard, MiB.
        seconds: Time of sampling through Ray, s; 0 leaves this part out.
        rate: Batches per second meanwhile.

    Raises:
        ValueError: A number is negative, or the bound is not positive.
    """
    if steps < 0 or seconds < 0 or megabytes < 1 or not rate > 0:
        raise ValueError(f"got steps {steps}, megabytes {megabytes}, seconds {seconds}, rate {rate}; none is negative")
    if steps:
        for name, selector in (("uniform", UniformConfig()), ("prioritized", PrioritizedConfig())):
            with mp.get_context("spawn").Pool(1) as fresh:  # a process that has held nothing yet
                yield from fresh.apply(resident_memory, (name, selector, steps, megabytes << 20))
    if seconds:
        yield from object_store(seconds, rate)


@dataclass
class _Stream:
    stream_id: int
    next_step: int = 0
    ended: bool = True  # whether the last step was the end of its episode
    episode: int = -1


class RaggedSource:
    """Blocks of random length of streams that end at random, with episodes of random length."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        rows = 4 * MOST_BLOCK_STEPS
        self._frames = self._rng.integers(0, 256, (rows, *FRAME), np.uint8)
        self._action = self._rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
        self._reward = self._rng.standard_normal(rows).astype(np.float32)
        self._streams = [_Stream(number) for number in range(STREAMS)]
        self._opened = STREAMS

    def block(self) -> Block:
        """The next block of one of the streams."""
        rng, place = self._rng, int(self._rng.integers(STREAMS))
        if rng.random() < 0.002:  # the actor dies; its next incarnation opens another stream
            self._streams[place] = _Stream(self._opened)
            self._opened += 1
        stream, steps = self._streams[place], int(rng.integers(1, MOST_BLOCK_STEPS + 1))
        first, is_last = stream.next_step, rng.random(steps) < 1 / EPISODE_STEPS
        is_first = np.concatenate([[stream.ended], is_last[:-1]])
        episode = stream.episode + np.cumsum(is_first)
        stream.next_step, stream.ended, stream.episode = first + steps, bool(is_last[-1]), int(episode[-1])
        low = int(rng.integers(len(self._frames) - steps + 1))
        data = {
            "image": self._frames[low : low + steps],
            "action": self._action[low : low + steps],
            "reward": self._reward[low : low + steps],
            "is_first": is_first,
            "is_last": is_last,
            "is_terminal": np.zeros(steps, np.bool_),
            "episode": episode,
        }
        return Block(stream.stream_id, first, 0, data)


def resident_memory(name: str, selector: SelectorConfig, steps: int, max_bytes: int) -> list[BenchRow]:
    """Peak growth of resident memory over the byte bound while `steps` steps go through a shard."""
    source, rng = RaggedSource(), np.random.default_rng(0)
    config = ReplayConfig(num_shards=1, max_bytes=max_bytes, chunk_steps=256, selector=selector)
    gc.collect()
    baseline = resident_bytes()
    shard, peak, most_bytes, inserted, blocks = ReplayShard(config, 0), 0, 0, 0, 0
    start = time.perf_counter()
    while inserted < steps:
        inserted += shard.insert(source.block())
        blocks += 1
        if blocks % EVERY == 0 and shard.num_items(BATCH[1]):
            batch = shard.sample(*BATCH)
            if takes_priorities(selector):
                shard.write(batch.handle, priority=rng.uniform(0.1, 1.0, len(batch.handle)))
            peak, most_bytes = max(peak, resident_bytes() - baseline), max(most_bytes, shard.nbytes)
    seconds = time.perf_counter() - start
    peak = max(peak, resident_bytes() - baseline)
    case = f"{inserted / 1e6:.3g} M steps into a bound of {max_bytes >> 20} MiB, {name}"
    bound = max_bytes / 2**20
    return [
        BenchRow("replay-memory", f"{case}: {what}", value / 2**20, "MiB", 1, "byte bound", bound, max_bytes / value)
        for what, value in (("peak RSS over baseline", peak), ("most bytes stored", most_bytes))
    ] + [BenchRow("replay-memory", f"{case}: with samples", inserted / seconds, "steps/s")]


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, this one by default, without pages of shared memory."""
    fields = Path(f"/proc/{pid or 'self'}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class _Sight:
    """What was seen at one time, in bytes."""

    object_store: int  # used, on this node
    driver: int  # resident and private
    shard: int  # the same of the shard's process
    shared_files: int  # slots of the learner and buffers of the sender


def object_store(seconds: float, rate: float) -> Iterator[BenchRow]:
    """What the object store, shared memory and both processes hold while batches and blocks pass through Ray.

    The first tenth of the time is left out, because buffers are made in it; then the most of the first fifth is
    compared with the most of the last fifth.
    """
    with ray_cluster(512 << 20):
        import ray

        from actors.replay.flow.service import RemoteBatches
        from actors.replay.service import CONCURRENCY_GROUPS, ReplayShardActor

        config = ReplayConfig(num_shards=1, max_bytes=64 << 20, chunk_steps=256, selector=PrioritizedConfig())
        with actor(ReplayShardActor, config, 0, 0, concurrency_groups=CONCURRENCY_GROUPS) as shard:
            pid = ray.get(shard.__ray_call__.remote(lambda _: os.getpid()))
            traffic = _Traffic(RaggedSource(), Sender(shard))
            for _ in range(800):
                traffic.insert()
            for transport in ("slots", "objects"):
                traffic.batches.append(RemoteBatches([shard], *BATCH, 0, 2, False, transport))
            sights = _watch(traffic, pid, seconds, rate)
    kept = sights[len(sights) // 10 :]
    fifth = max(1, len(kept) // 5)
    for name in _Sight.__dataclass_fields__:
        before, after = (max(getattr(sight, name) for sight in part) / 2**20 for part in (kept[:fifth], kept[-fifth:]))
        case = f"{seconds:.0f} s of sampling and inserting through Ray: {name.replace('_', ' ')}, last fifth"
        yield BenchRow("replay-memory", case, after, "MiB", 1, "first fifth", before, before / after if after else None)


@dataclass
class _Traffic:
    """What a learner and a sender do, in turns."""

    source: RaggedSource
    sender: Sender
    batches: list[Any] = field(default_factory=list)  # by slots, by objects

    def insert(self) -> None:
        """Insert a block."""
        self.sender.send(self.source.block())

    def sample(self, number: int) -> None:
        """Take a batch by the next way and send priorities for it."""
        from learner.algorithms.base import UpdateResult

        batches = self.batches[number % len(self.batches)]
        batch = next(batches)
        batches.write_back(batch, UpdateResult({}, np.ones(len(batch.handle), np.float32)))


def _watch(traffic: _Traffic, pid: int, seconds: float, rate: float) -> list[_Sight]:
    """Sample at `rate`, insert a block for every fourth batch, and look every few seconds."""
    sights: list[_Sight] = []
    start, every = time.monotonic(), max(0.2, min(5.0, seconds / 100))
    number = 0
    while (now := time.monotonic() - start) < seconds:
        traffic.sample(number)
        number += 1
        if number % 4 == 0:
            traffic.insert()
        if now >= every * len(sights):
            sights.append(_look(pid))
            if len(sights) % 60 == 0:
                logger.info("%.0f s, %d batches: %s", now, number, sights[-1])
        time.sleep(max(0.0, number / rate - (time.monotonic() - start)))
    return sights


def _look(pid: int) -> _Sight:
    import ray
    from ray._private.internal_api import node_stats  # nothing public tells what the object store holds

    (node,) = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
    shared = sum(path.stat().st_size for path in SHARED_MEMORY.glob(f"worldfleet-*-{os.getpid()}-*"))
    return _Sight(int(stats.object_store_bytes_used), resident_bytes(), resident_bytes(pid), shared)
