"""Time of one full update of DreamerV3 against peers: batches of 16 x 64 steps, imagination of 15.

Every learner takes one update per round, in turns, so all see the same machine. Peers that are not installed are
named and skipped; docs/peers.md says how to install them. Where there is a GPU, `cluster.bench.learner_cuda` adds its
rows.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from cluster.bench.learner_cuda import cuda_rows
from cluster.bench.learner_data import WORKLOADS, Workload, make_algorithm, make_batch
from cluster.bench.learner_peers import PEERS, Update, make_peer, shown, why_skipped
from cluster.bench.row import BenchRow
from learner.device import keep_freed_memory
from learner.learner_config import Precision

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Contender:
    """A learner in one of its modes; `peer` is empty for ours."""

    peer: str = ""
    precision: Precision = "fp32"
    compiled: bool = False

    @property
    def mode(self) -> str:
        return f"{self.precision}, compiled" if self.compiled else self.precision

    def make(self, work: Workload) -> Update:
        """Its update of the workload's batch.

        Raises:
            ImportError: The peer is not installed or lacks what is asked for.
        """
        if self.peer:
            return make_peer(self.peer, work, _CPU, self.precision)
        algorithm, batch = make_algorithm(work, _CPU, self.precision, self.compiled), make_batch(work)
        return lambda: algorithm.update(batch)


def run(
    workloads: str = "vector 1m,image 1m pooled,image 1m strided",
    threads: int = 1,
    rounds: int = 5,
    compiled: bool = False,
    keep_memory: bool = False,
    memory: bool = True,
    cuda: bool = True,
) -> Iterator[BenchRow]:
    """Measure updates on the CPU, then on the GPU if there is one.

    Args:
        workloads: Names of `WORKLOADS`, separated by commas; empty for none.
        threads: Torch threads.
        rounds: Updates of each learner, after two that warm it up.
        compiled: Whether ours is timed under torch.compile too, which needs a C++ compiler and minutes.
        keep_memory: Whether the process keeps freed memory, for all learners in it, as the process of a `Learner` does.
        memory: Whether the peak memory of each learner is measured, in a process of its own.
        cuda: Whether a GPU is measured if there is one.

    Raises:
        ValueError: A workload is unknown, or a number is not positive.
    """
    if rounds < 1 or threads < 1:
        raise ValueError(f"rounds and threads must be at least 1, got {rounds} and {threads}")
    names = [name.strip() for name in workloads.split(",") if name.strip()]
    unknown = sorted(set(names) - set(WORKLOADS))
    if unknown:
        raise ValueError(f"unknown workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    if keep_memory:
        keep_freed_memory()
    for name in names:
        with _threads(threads):
            yield from measure(WORKLOADS[name], threads, rounds, compiled, memory)
    if cuda and torch.cuda.is_available():
        yield from cuda_rows(rounds)


def contenders(compiled: bool = False) -> list[Contender]:
    """All that may take part: every learner in fp32 and bf16, ours also compiled."""
    ours = [Contender(precision=precision) for precision in ("fp32", "bf16")]
    if compiled:
        ours += [Contender(precision=precision, compiled=True) for precision in ("fp32", "bf16")]
    return ours + [Contender(peer, precision) for peer in PEERS for precision in ("fp32", "bf16")]


def measure(work: Workload, threads: int, rounds: int, compiled: bool, memory: bool) -> Iterator[BenchRow]:
    """Rows of every mode of ours: beside each peer in the same precision, transitions/s, memory."""
    updates: dict[Contender, Update] = {}
    skipped: dict[Contender, str] = {}
    for contender in contenders(compiled):
        try:
            updates[contender] = contender.make(work)
        except ImportError as error:
            skipped[contender] = why_skipped(contender.peer, error)
    times = interleave(updates, rounds)
    peaks = {contender: _peak(contender, work, threads) for contender in updates} if memory else {}
    updates.clear()
    for ours in [contender for contender in times if not contender.peer]:
        rivals = [Contender(peer, ours.precision) for peer in PEERS]
        yield from _rows(work, ours, rivals, times, skipped, threads)
        best = min(times[ours])
        yield BenchRow("learner", f"{work.name}, {ours.mode}: speed", work.transitions / best, "transitions/s", threads)
        if memory:
            yield from _memory_rows(work, ours, rivals, peaks, threads)


def _rows(
    work: Workload,
    ours: Contender,
    rivals: list[Contender],
    times: dict[Contender, list[float]],
    skipped: dict[Contender, str],
    threads: int,
) -> Iterator[BenchRow]:
    for rival in rivals:
        for name, statistic in (("minimum", min), ("median", statistics.median)):
            case, value = f"{work.name}, {ours.mode}: {name}", 1e3 * statistic(times[ours])
            if rival in times:
                other = 1e3 * statistic(times[rival])
                yield BenchRow("learner", case, value, "ms", threads, shown(rival.peer), other, other / value)
            else:
                yield BenchRow("learner", case, value, "ms", threads, f"{rival.peer} (skipped: {skipped[rival]})")


def _memory_rows(
    work: Workload, ours: Contender, rivals: list[Contender], peaks: dict[Contender, float], threads: int
) -> Iterator[BenchRow]:
    case = f"{work.name}, {ours.mode}: peak memory"
    for rival in [rival for rival in rivals if rival in peaks]:
        ratio = peaks[rival] / peaks[ours]
        yield BenchRow("learner", case, peaks[ours], "MB", threads, shown(rival.peer), peaks[rival], ratio)
    if not any(rival in peaks for rival in rivals):
        yield BenchRow("learner", case, peaks[ours], "MB", threads)


def interleave(updates: dict[Contender, Update], rounds: int, warm_up: int = 2) -> dict[Contender, list[float]]:
    """Seconds of `rounds` updates of each contender, taken in turns."""
    times: dict[Contender, list[float]] = {contender: [] for contender in updates}
    for number in range(warm_up + rounds):
        for contender, update in updates.items():
            start = perf_counter()
            update()
            if number >= warm_up:
                times[contender].append(perf_counter() - start)
    return times


def _peak(contender: Contender, work: Workload, threads: int) -> float:
    """Largest resident memory, in MB, of a process that makes three updates."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_here, contender, work, threads).result()


def _peak_here(contender: Contender, work: Workload, threads: int) -> float:
    torch.set_num_threads(threads)
    update = contender.make(work)
    for _ in range(3):
        update()
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held before
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
