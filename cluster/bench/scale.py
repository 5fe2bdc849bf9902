"""Cost of the control plane against the numbers of actors and shards, on one machine.

Real: Ray and all its calls, the driver's `Run.issue` and `Run.take`, the shard actors (one process each), their
selectors, the senders' windows, the learner's `RemoteBatches`, checkpoints, the weight store.
Stubbed: the rollout actors. Up to 8 processes stand for up to 512 of them (`cluster.bench.scale_stubs`): they simulate
nothing and plan nothing, steps are 51 bytes, and batches 2 sequences of 8 steps.

All processes share the cores of this machine, so a rate is what those cores carry for senders, receivers and Ray
together; beside it stands the CPU time of all of them for one unit, a constant of docs/scale-model.md.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from actors.replay.config import DurabilityConfig, LimiterConfig, ReplayConfig
from actors.replay.flow.limiter import SampleLimiter
from cluster.bench.replay_service import actor, ray_cluster
from cluster.bench.row import BenchRow
from cluster.config import ActorsConfig, RunConfig, ScheduleConfig
from cluster.progress import Progress
from cluster.recorder import Recorder
from cluster.run_dir import RunDir
from envs.scratch import scratch_folder

if TYPE_CHECKING:  # they import Ray, which reads RAY_AUTH_MODE when it is first imported
    from cluster.bench.scale_stubs import LogicalActor
    from cluster.launch import Run

BLOCK_STEPS = 64
"""Steps of a block, and of a lease."""

ACTORS = (1, 8, 64, 512)
SHARDS = (1, 4, 16, 64)
HOSTS = 8
BATCH = (2, 8)  # sequences, steps
WEIGHT_BYTES = (1 << 20, 16 << 20, 64 << 20)


def run(
    actors: str = ",".join(map(str, ACTORS)), shards: str = ",".join(map(str, SHARDS)), seconds: float = 3.0
) -> Iterator[BenchRow]:
    """Measure the driver, inserts, batches, checkpoints and weights.

    Args:
        actors: Numbers of logical rollout actors, separated by commas.
        shards: Numbers of shard actors; each is a process of some 150 MB.
        seconds: Time of one measurement, s.

    Raises:
        ValueError: A number is not positive.
    """
    counts, sizes = _numbers(actors, "actors"), _numbers(shards, "shards")
    with ray_cluster(512 << 20, HOSTS + max(sizes) + 8), ExitStack() as stack:
        import ray

        from cluster.bench.scale_stubs import StubHost

        hosts = [stack.enter_context(actor(StubHost, BLOCK_STEPS)) for _ in range(min(HOSTS, max(counts)))]
        ray.get([host.ping.remote() for host in hosts])  # so that no start is measured
        yield from leases(hosts, counts, seconds)
        yield from weights(hosts, counts, seconds)
        for number in sizes:
            yield from _with_shards(number, hosts, counts, seconds)


def _numbers(text: str, what: str) -> list[int]:
    numbers = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if min(numbers) < 1:
        raise ValueError(f"{what} must be positive whole numbers separated by commas, got {text!r}")
    return sorted(numbers)


def leases(hosts: Sequence[Any], counts: Sequence[int], seconds: float) -> Iterator[BenchRow]:
    """Leases that the driver's loop issues and books, beside bare Ray calls with as many in flight."""
    for number in counts:
        with _driver(hosts, number) as (run, logical):
            issued = _rate(lambda run=run: _turn(run), seconds)  # type: ignore[misc]
        bare = _rate(_bare_calls(logical), seconds)
        case = f"driver, {number} actors"
        yield _row(f"{case}: leases", issued.rate, "leases/s", "bare Ray calls", bare.rate)
        yield _row(f"{case}: driver CPU per lease", 1e6 * issued.own_cpu, "us", "bare Ray calls", 1e6 * bare.own_cpu)


def _turn(run: Run) -> int:
    before = run.recorder.steps
    run.issue()
    run.take(timeout=1.0)
    return (run.recorder.steps - before) // run.config.actors.ticks_per_collect


@contextmanager
def _driver(hosts: Sequence[Any], number: int) -> Iterator[tuple[Run, list[LogicalActor]]]:
    """The driver's loop over logical actors, and their handles; it never trains."""
    from cluster.bench.scale_stubs import LogicalActor, StubFleet
    from cluster.launch import Run

    logical = [LogicalActor(hosts[index % len(hosts)], index) for index in range(number)]
    fleet: Any = StubFleet({"rollout": logical, "learner": []})
    config = RunConfig(
        actors=ActorsConfig(envs_per_actor=1, ticks_per_collect=BLOCK_STEPS),
        replay=replace(ReplayConfig(), limiter=LimiterConfig(min_size=1 << 60)),
        schedule=ScheduleConfig(total_steps=1 << 60),
    )
    with scratch_folder("bench") as folder:
        run_dir = RunDir(folder)
        recorder = Recorder(config, run_dir, Progress("bench"))
        limiter = SampleLimiter(config.replay.limiter, BLOCK_STEPS, 1)
        yield Run(config, recorder, cast(Any, None), fleet, limiter, run_dir), logical


def _bare_calls(logical: Sequence[LogicalActor]) -> Callable[[], int]:
    """Two calls in flight to every actor, taken in the order in which they were sent."""
    import ray

    calls = [one.run.remote(BLOCK_STEPS) for _ in range(2) for one in logical]
    turn = 0

    def work() -> int:
        nonlocal turn
        place = turn % len(calls)
        ray.get(calls[place])
        calls[place] = logical[place % len(logical)].run.remote(BLOCK_STEPS)
        turn += 1
        return 1

    return work


def weights(hosts: Sequence[Any], counts: Sequence[int], seconds: float) -> Iterator[BenchRow]:
    """Polls of the weight store without news, and the time until every process has new weights."""
    import ray

    from cluster.service import WeightStoreActor

    with actor(WeightStoreActor) as store:
        ray.get(store.publish.remote(0, {"w": np.zeros(1, np.float32)}))
        for number in sorted({min(count, len(hosts)) for count in counts}):
            polls = _rate(lambda number=number: _poll(hosts[:number], store), seconds)  # type: ignore[misc]
            yield _cpu_row(f"weight store, {number} processes poll", polls, "polls", 1.0)
        for version, size in enumerate(WEIGHT_BYTES, 1):
            array = {"w": np.ones(size // 4, np.float32)}
            start = perf_counter()
            ray.get(store.publish.remote(version, array))
            published = perf_counter() - start
            start = perf_counter()
            ray.get([host.pull.remote(store) for host in hosts])
            pulled = perf_counter() - start
            yield BenchRow("scale", f"weights of {size >> 20} MiB: publish", 1e3 * published, "ms")
            yield BenchRow("scale", f"weights of {size >> 20} MiB: {len(hosts)} processes pull", 1e3 * pulled, "ms")


def _poll(hosts: Sequence[Any], store: Any) -> int:
    import ray

    ray.get([host.poll.remote(store, 0, 20) for host in hosts])
    return 20 * len(hosts)


def _with_shards(number: int, hosts: Sequence[Any], counts: Sequence[int], seconds: float) -> Iterator[BenchRow]:
    import ray

    from actors.replay.service import CONCURRENCY_GROUPS, ReplayShardActor

    config = ReplayConfig(
        num_shards=number, max_bytes=number << 22, chunk_steps=BLOCK_STEPS, durability=DurabilityConfig("none")
    )
    with scratch_folder("bench") as folder, ExitStack() as stack:
        shards = []
        for index in range(number):  # one after another: all at once would take much longer
            arguments = (config, index, index, str(folder / str(index)))
            shard = actor(ReplayShardActor, *arguments, concurrency_groups=CONCURRENCY_GROUPS)
            shards.append(stack.enter_context(shard))
            ray.get(shards[-1].ping.remote())
        idle = _rate(lambda: _wait(seconds), 0.0)
        cpu = 1e3 * idle.rate * idle.total_cpu
        yield BenchRow("scale", f"nothing to do, {number} shards: CPU time of all processes", cpu, "ms/s")
        first_actor = 0
        for count in counts:
            yield from _inserts(shards, hosts, first_actor, count, seconds)
            first_actor += count
        _fill(shards, hosts, first_actor)
        yield from _batches(shards, seconds)
        yield from _checkpoints(shards)


def _wait(seconds: float) -> int:
    sleep(seconds)
    return 1


def _inserts(
    shards: Sequence[Any], hosts: Sequence[Any], first_actor: int, count: int, seconds: float
) -> Iterator[BenchRow]:
    """Blocks of 64 steps from `count` logical senders, each to the shard of its stream."""
    import ray

    used = list(hosts[: min(count, len(hosts))])
    share, rest = divmod(count, len(used))
    first = first_actor
    for index, host in enumerate(used):
        ray.get(host.attach.remote(shards, first, share + (index < rest)))
        first += share + (index < rest)
    ray.get([host.send.remote(1) for host in used])  # connects senders and shards
    blocks = _rate(lambda: sum(ray.get([host.send_for.remote(seconds) for host in used])), 0.0)
    yield _cpu_row(f"insert, {count} actors, {len(shards)} shards", blocks, "steps", BLOCK_STEPS)


def _fill(shards: Sequence[Any], hosts: Sequence[Any], first_actor: int) -> None:
    """Give every shard something to sample: 8 streams a shard, hashed."""
    import ray

    ray.get(hosts[0].attach.remote(shards, first_actor, 8 * len(shards)))
    ray.get(hosts[0].send.remote(2))


def _batches(shards: Sequence[Any], seconds: float) -> Iterator[BenchRow]:
    """Tiny batches through slots, probes of the masses included, and one round of probes alone."""
    import ray

    from actors.replay.flow.service import RemoteBatches

    for mixed in (False, True):
        batches = RemoteBatches(shards, BATCH[0], BATCH[1], 0, 2, mixed, "slots")
        next(batches)
        rate = _rate(lambda batches=batches: _take(batches), seconds)  # type: ignore[misc]
        name = "mixed batches" if mixed else "batches"
        yield _cpu_row(f"{name} of {BATCH[0]} x {BATCH[1]} steps, {len(shards)} shards", rate, "batches", 1.0)
    probes = _rate(lambda: len(ray.get([shard.probe.remote(BATCH[1]) for shard in shards])), seconds)
    yield _cpu_row(f"probes of the masses, {len(shards)} shards at once", probes, "probes", 1.0)


def _take(batches: Iterator[Any]) -> int:
    next(batches)
    return 1


def _checkpoints(shards: Sequence[Any]) -> Iterator[BenchRow]:
    """Manifests of all shards when next to nothing is new."""
    import ray

    from actors.replay.service import begin_checkpoint

    seconds = []
    for turn in range(4):
        start = perf_counter()
        ray.get(begin_checkpoint(shards, f"bench-{turn}"))
        seconds.append(perf_counter() - start)
    yield BenchRow(
        "scale", f"checkpoint of {len(shards)} shards, nothing new", 1e3 * statistics.median(seconds[1:]), "ms"
    )


class _Cost:
    """Rate of some work and what one unit of it took."""

    def __init__(self, units: int, seconds: float, own_cpu: float, total_cpu: float) -> None:
        self.rate = units / seconds
        self.own_cpu, self.total_cpu = own_cpu / units, total_cpu / units  # s


def _rate(work: Callable[[], int], seconds: float) -> _Cost:
    """Repeat work that answers with its units, once at least."""
    units, start, own, total = 0, perf_counter(), process_time(), _cpu_seconds()
    while not units or perf_counter() - start < seconds:
        units += work()
    return _Cost(units, perf_counter() - start, process_time() - own, _cpu_seconds() - total)


def _cpu_seconds() -> float:
    """CPU time of this process and of all that descend from it, Ray's own included, since they started, s."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            ticks[pid], parents[pid] = int(fields[11]) + int(fields[12]), int(fields[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


def _row(case: str, value: float, unit: str, peer: str, peer_value: float) -> BenchRow:
    """A row whose ratio is the better the higher, for rates and for times."""
    ratio = value / peer_value if unit.endswith("/s") else peer_value / value
    return BenchRow("scale", case, value, unit, os.cpu_count() or 1, peer, peer_value, ratio)


def _cpu_row(case: str, cost: _Cost, unit: str, scale: float) -> BenchRow:
    """A rate, with the CPU microseconds of all processes for one unit in the peer's column."""
    return BenchRow(
        "scale", case, scale * cost.rate, f"{unit}/s", os.cpu_count() or 1, f"CPU us, 1 of {unit}",
        1e6 * cost.total_cpu / scale,
    )  # fmt: skip
