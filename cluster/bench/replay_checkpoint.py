"""Speed of checkpoints, of sampling meanwhile, of recovery, and what durability costs an insert."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

from actors.replay.config import DurabilityConfig, ReplayConfig
from actors.replay.shard import ReplayShard
from cluster.bench.replay_bounds import read_seconds, write_seconds
from cluster.bench.replay_data import StepSource, Work, Workload, alternate, compared, median_ratio, replay_config
from cluster.bench.row import BenchRow
from envs.scratch import SHARED_MEMORY, scratch_folder

TURNS = 5


def checkpoints(workload: Workload, turns: int = TURNS) -> Iterator[BenchRow]:
    """Checkpoints of everything stored and their recovery, on disk and in memory, then inserts under every durability.

    The disk is that of the system's temporary directory; the file system in memory shows what the code alone costs.

    Args:
        workload: Sizes.
        turns: Checkpoints of each kind; all steps are new for each.
    """
    source = StepSource(workload)
    for compression in ("none", "auto"):
        for place, parent in (("disk", None), ("memory", SHARED_MEMORY)):
            with scratch_folder("bench", parent) as folder:
                case = f"{'raw' if compression == 'none' else 'zstd where it pays'}, {place}"
                config = replay_config(workload, durability=DurabilityConfig("none", compression))
                yield from _checkpoint(case, config, source, turns, folder)
    with scratch_folder("bench") as folder:
        yield from _durable_inserts(source, turns, folder)


def _checkpoint(case: str, config: ReplayConfig, source: StepSource, turns: int, folder: Path) -> Iterator[BenchRow]:
    workload, writer = source.workload, source.restarted()
    shard = ReplayShard(config, 0, directory=folder / "replay")
    ours, saves, during, apart, alone = [], [], [], [], []
    raw = workload.stored_steps * step_bytes(source)
    baseline = raw / 1e9  # s, about what a checkpoint takes
    array = np.resize(source.block(0).data["image"].reshape(-1), raw)
    for turn in range(2 * turns):
        for block in writer.blocks():
            shard.insert(block)
        saves.append(raw / write_seconds(folder / "bound.npy", array, sync=True))
        name = f"turn-{turn}"
        if turn % 2:
            start = perf_counter()
            shard.checkpoint(name).wait()
            alone.append(raw / (perf_counter() - start))
        else:
            before = _sampling_rate(shard, workload, baseline)
            seconds, rate = _checkpoint_while_sampling(shard, workload, name)
            ours.append(raw / seconds)
            during.append(rate)
            apart.append((before + _sampling_rate(shard, workload, baseline)) / 2)
        shard.retain([name])
    yield _row(f"checkpoint, {case}", alone, "np.save + fsync", saves[1::2], 1e-9, "GB/s")
    yield _row(f"checkpoint while sampling, {case}", ours, "np.save + fsync", saves[::2], 1e-9, "GB/s")
    yield _row(f"uniform sample during a checkpoint, {case}", during, "no checkpoint", apart, 1.0, "batches/s")
    shard.close()
    del shard
    yield from _recovery(case, config, folder, raw, turns)


def _recovery(case: str, config: ReplayConfig, folder: Path, raw: int, turns: int) -> Iterator[BenchRow]:
    ours, loads = [], []
    for _ in range(turns):
        loads.append(raw / read_seconds(folder / "bound.npy"))
        start = perf_counter()
        shard = ReplayShard(config, 0, directory=folder / "replay")
        ours.append(raw / (perf_counter() - start))
        assert shard.num_steps
        shard.close()
        del shard
    yield _row(f"recovery, {case}", ours, "np.load", loads, 1e-9, "GB/s")


def _row(case: str, ours: list[float], peer: str, theirs: list[float], scale: float, unit: str) -> BenchRow:
    """Medians over turns, and that of the ratio."""
    value, peer_value = scale * statistics.median(ours), scale * statistics.median(theirs)
    return BenchRow("replay", case, value, unit, 1, peer, peer_value, median_ratio(ours, theirs))


def step_bytes(source: StepSource) -> int:
    """Bytes of a step's arrays."""
    block = source.restarted().block(0)
    return sum(array.nbytes for array in block.data.values()) // block.num_steps


def _sampling_rate(shard: ReplayShard, workload: Workload, seconds: float) -> float:
    """Batches per second over so many seconds."""
    end = perf_counter() + seconds
    return _sample_while(shard, workload, lambda: perf_counter() < end)


def _checkpoint_while_sampling(shard: ReplayShard, workload: Workload, name: str) -> tuple[float, float]:
    """(seconds of the checkpoint, batches per second meanwhile)."""
    start = perf_counter()
    pending = shard.checkpoint(name)
    with ThreadPoolExecutor(1) as pool:

        def wait() -> float:
            pending.wait()
            return perf_counter() - start

        seconds = pool.submit(wait)
        rate = _sample_while(shard, workload, lambda: not seconds.done())
        return seconds.result(), rate


def _sample_while(shard: ReplayShard, workload: Workload, busy: Callable[[], bool]) -> float:
    """Batches per second, of one batch at least."""
    count, start = 0, perf_counter()
    while busy() or not count:
        shard.sample(workload.batch_size, workload.length)
        count += 1
    return count / (perf_counter() - start)


def _durable_inserts(source: StepSource, turns: int, folder: Path) -> Iterator[BenchRow]:
    """Inserts that are journaled, beside inserts that are not."""
    workload = source.workload
    shards: dict[str, ReplayShard] = {}
    rivals: dict[str, Work] = {}
    for durability in (DurabilityConfig("none"), DurabilityConfig("async"), DurabilityConfig("sync")):
        mode, config = durability.mode, replay_config(workload, durability=durability)
        shards[mode] = ReplayShard(config, 0, directory=None if mode == "none" else folder / mode)
        rivals[mode] = _inserter(shards[mode], source.restarted())
    rates = alternate(rivals, turns, max(8, workload.rounds_of_blocks))
    for shard in shards.values():
        shard.close()
    for mode in ("async", "sync"):
        yield from compared(
            f"insert blocks of {workload.block_steps}, durability {mode}", "steps/s", rates, mode,
            {"none": "durability none"}, workload.block_steps,
        )  # fmt: skip


def _inserter(shard: ReplayShard, source: StepSource) -> Work:
    turn = 0

    def insert() -> None:
        nonlocal turn
        shard.insert(source.block(turn % source.workload.streams))
        turn += 1

    return insert
