"""The replay as a service on one node: batches and blocks through Ray, beside plain Ray actors and TorchRL's.

Rivals of one case take turns and ask for equally many batches ahead. A batch counts when the learner holds it; what it
does with it afterwards (the copy to an accelerator) is the same for all and not part of this. Ours arrive in memory
that the learner may write to; a plain `ray.get` gives read-only views of the object store, so it is timed as it is
and with the copy that makes it equal.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.draw.kinds import PrioritizedConfig
from cluster.authentication import guarded
from cluster.bench import replay_peers
from cluster.bench.replay_bounds import Ring
from cluster.bench.replay_data import StepSource, Work, Workload, alternate, compared, replay_config
from cluster.bench.replay_data import skipped as skipped_row
from cluster.bench.row import BenchRow

IN_FLIGHT = 3
MESSAGES_AHEAD = 8
UNAPPLIED_BYTES = 256 << 20
TORCHRL_STEPS = 25_600  # it takes in some 8,000 steps a second
WHILE_SECONDS = 4.0


def services(workload: Workload, peers: Collection[str], rounds: int) -> Iterator[BenchRow]:
    """Sampling, inserting, and both at once, through Ray on this node."""
    with ray_cluster():
        source = StepSource(workload)
        yield from _sampling(workload, source, rounds, peers)
        yield from _inserting(workload, source, rounds)
        yield from _both_at_once(workload, source)


@contextmanager
def ray_cluster(object_store_bytes: int = 2 << 30, max_actors: int = 16) -> Iterator[None]:
    """The connected Ray cluster, or one of our own on this machine for so many actors."""
    import ray

    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(guarded())
            ray.init(
                address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
                object_store_memory=object_store_bytes,
                _system_config={"worker_maximum_startup_concurrency": max_actors},  # or Ray warns on stdout
            )  # fmt: skip
            stack.callback(ray.shutdown)
        yield


@contextmanager
def actor(cls: type, *arguments: Any, **options: Any) -> Iterator[Any]:
    """A Ray actor for a while."""
    import ray

    handle = ray.remote(num_cpus=0, **options)(cls).remote(*arguments)
    try:
        yield handle
    finally:
        ray.kill(handle)


class PlainActor:
    """A ring behind Ray calls: no streams, no books, no checks, no limits."""

    def __init__(self, workload: Workload) -> None:
        self._ring = Ring(StepSource(workload))

    def insert(self, data: dict[str, NDArray[Any]]) -> int:
        """Copy a block in; its steps."""
        self._ring.insert(data)
        return len(data["reward"])

    def sample(self) -> dict[str, NDArray[Any]]:
        """A batch with every key."""
        return self._ring.batch()


class Writer:
    """Inserts blocks into a shard from another process.

    Args:
        shard: Handle of the shard actor.
        workload: What is inserted.
        first_stream: Its streams are this one and those after it.
    """

    def __init__(self, shard: Any, workload: Workload, first_stream: int) -> None:
        self._source = StepSource(workload)
        self._sender = Sender(shard)
        self._streams = cycle(range(workload.streams))
        self._first_stream = first_stream

    def write(self, num_blocks: int) -> int:
        """Insert so many blocks; the steps acknowledged."""
        steps: int = 0
        for _ in range(num_blocks):
            block = self._source.block(next(self._streams))
            steps += self._sender.send(_shifted(block, self._first_stream))
        return steps + self._sender.settle()

    def write_for(self, seconds: float) -> float:
        """Insert as fast as the shard acknowledges; steps per second."""
        start, steps = perf_counter(), 0
        while perf_counter() - start < seconds:
            steps += self.write(MESSAGES_AHEAD)
        return steps / (perf_counter() - start)


def _shifted(block: Block, by: int) -> Block:
    return Block(block.stream_id + by, block.first_step, block.policy_version, block.data)


class Sender:
    """The sending side of inserts, as the rollout actors use it.

    Args:
        shard: Handle of the shard actor.
        in_memory: Whether blocks go through shared memory, or else as from another node.
    """

    def __init__(self, shard: Any, in_memory: bool = True) -> None:
        from actors.replay.flow.credits import MessageWindow
        from actors.replay.flow.service import RayInserts
        from actors.replay.wire.buffers import SharedBufferPool

        self._port = RayInserts(shard, SharedBufferPool() if in_memory else None)
        self._window = MessageWindow(self._port, MESSAGES_AHEAD, UNAPPLIED_BYTES)

    def send(self, block: Block) -> int:
        """Send a block; the steps acknowledged meanwhile."""
        return self._window.send(self._port.message([block]))

    def settle(self) -> int:
        """Wait for everything; the steps acknowledged."""
        return self._window.settle(wait=True)


@contextmanager
def filled_shard_actor(workload: Workload, source: StepSource, index: int = 0, **changes: Any) -> Iterator[Any]:
    """A shard actor with one filling of the source."""
    from actors.replay.service import CONCURRENCY_GROUPS, ReplayShardActor

    config = replay_config(workload, **changes)
    with actor(ReplayShardActor, config, index, index, concurrency_groups=CONCURRENCY_GROUPS) as shard:
        sender = Sender(shard)
        for block in source.restarted().blocks():
            sender.send(block)
        sender.settle()
        yield shard


def remote_batches(shards: list[Any], workload: Workload, transport: str, mixed: bool = False) -> Iterator[Any]:
    """Our batches, as a learner rank asks for them."""
    from actors.replay.flow.service import RemoteBatches

    batches: Iterator[Any] = RemoteBatches(
        shards,
        workload.batch_size,
        workload.length,
        0,
        IN_FLIGHT,
        mixed,
        transport,  # type: ignore[arg-type]
    )
    return batches


def _sampling(workload: Workload, source: StepSource, rounds: int, peers: Collection[str]) -> Iterator[BenchRow]:
    repeats = max(4, workload.stored_steps // 1000)
    with ExitStack() as stack:
        shard = stack.enter_context(filled_shard_actor(workload, source))
        ours: dict[str, Work] = {
            transport: partial(next, remote_batches([shard], workload, transport)) for transport in ("slots", "objects")
        }
        plain = stack.enter_context(actor(PlainActor, workload))
        theirs = {
            f"plain Ray actor, {IN_FLIGHT} ahead": _asking_ahead(plain, IN_FLIGHT),
            "plain Ray actor, one at a time": _asking_ahead(plain, 1),
            f"plain Ray actor, {IN_FLIGHT} ahead, copied out": _copying_out(_asking_ahead(plain, IN_FLIGHT)),
        }
        rates = alternate(ours | theirs, rounds, repeats)
        for transport in ours:
            yield from compared(
                f"service, {transport}, uniform sample", "batches/s", rates, transport, {name: name for name in theirs}
            )
        yield from _beside_torchrl(workload, source, ours["slots"], rounds, repeats, peers)
        prioritized = stack.enter_context(filled_shard_actor(workload, source, selector=PrioritizedConfig()))
        updating = _updating(remote_batches([prioritized], workload, "slots"), [prioritized], workload)
        rates = alternate(
            {"prioritized": updating, "plain": theirs[f"plain Ray actor, {IN_FLIGHT} ahead"]}, rounds, repeats
        )
        yield from compared(
            "service, slots, prioritized sample + update", "batches/s", rates, "prioritized",
            {"plain": f"plain Ray actor, {IN_FLIGHT} ahead, uniform"},
        )  # fmt: skip


def _updating(batches: Any, shards: list[Any], workload: Workload) -> Work:
    """Takes a batch and sends priorities for it, as a learner does after an update."""
    from learner.algorithms.base import UpdateResult

    result = UpdateResult({}, np.random.default_rng(0).uniform(0.1, 1.0, workload.batch_size).astype(np.float32))

    def work() -> None:
        batches.write_back(next(batches), result)

    return work


def _asking_ahead(plain: Any, ahead: int) -> Work:
    """Batches of a plain actor, `ahead` of them asked for at any time."""
    import ray

    calls: deque[Any] = deque()

    def work() -> Any:
        while len(calls) < ahead:
            calls.append(plain.sample.remote())
        return ray.get(calls.popleft())

    return work


def _copying_out(work: Any) -> Work:
    """The same, copied into memory of the learner that is used again and again."""
    buffers: dict[str, NDArray[Any]] = {}

    def copy() -> None:
        for key, array in work().items():
            if key not in buffers:
                buffers[key] = np.empty_like(array)
            buffers[key][...] = array

    return copy


def _beside_torchrl(
    workload: Workload, source: StepSource, ours: Work, rounds: int, repeats: int, peers: Collection[str]
) -> Iterator[BenchRow]:
    if "TorchRL" not in peers:
        return
    case = "service, slots, uniform sample"
    try:
        buffer = replay_peers.torchrl_on_ray(workload)
    except ImportError as error:
        value = statistics.median(alternate({"ours": ours}, 1, 4)["ours"])
        yield skipped_row(case, value, "batches/s", "TorchRL on Ray", replay_peers.why_skipped("TorchRL", error))
        return
    try:
        steps = 0
        for number, episode in enumerate(source.restarted().episodes()):
            buffer.extend(replay_peers.torchrl_episode(episode, number))
            steps += workload.episode_steps
            if steps >= TORCHRL_STEPS:
                break
        rates = alternate({"ours": ours, "TorchRL": buffer.sample}, rounds, repeats)
    finally:
        buffer.shutdown()
    yield from compared(case, "batches/s", rates, "ours", {"TorchRL": f"{replay_peers.shown('TorchRL')} on Ray"})


def _inserting(workload: Workload, source: StepSource, rounds: int) -> Iterator[BenchRow]:
    """Blocks from this process into a shard and into a plain actor, both full."""
    import ray

    num_blocks = max(workload.streams, workload.rounds_of_blocks)
    with filled_shard_actor(workload, source) as shard, actor(PlainActor, workload) as plain:
        ours, theirs = source.restarted(), source.restarted()
        for stream in range(workload.streams):
            ours.skip(stream, workload.stored_steps // workload.streams)
        streams = cycle(range(workload.streams))

        def insert(sender: Sender) -> None:
            for _ in range(num_blocks):
                sender.send(ours.block(next(streams)))
            sender.settle()

        def insert_plain() -> None:
            calls: deque[Any] = deque()
            for _ in range(num_blocks):
                if len(calls) == MESSAGES_AHEAD:
                    ray.get(calls.popleft())
                calls.append(plain.insert.remote(theirs.block(next(streams)).data))
            ray.get(list(calls))

        ways = {"shared memory": partial(insert, Sender(shard)), "objects": partial(insert, Sender(shard, False))}
        rates = alternate(ways | {"plain": insert_plain}, rounds, 1)
        for way in ways:
            yield from compared(
                f"service, insert blocks of {workload.block_steps}, 1 sender, {way}", "steps/s", rates, way,
                {"plain": f"plain Ray actor, {MESSAGES_AHEAD} ahead, no header, checksum or streams"},
                num_blocks * workload.block_steps,
            )  # fmt: skip


def _both_at_once(workload: Workload, source: StepSource) -> Iterator[BenchRow]:
    """A learner samples while another process inserts as fast as it is acknowledged."""
    import ray

    seconds = WHILE_SECONDS if workload.stored_steps > TORCHRL_STEPS else 0.5
    with filled_shard_actor(workload, source) as shard:
        batches = remote_batches([shard], workload, "slots")
        with actor(Writer, shard, workload, workload.streams) as writer:
            ray.get(writer.write.remote(max(workload.streams, workload.rounds_of_blocks)))
            alone, together, inserts, inserts_alone = [], [], [], []
            for _ in range(3):
                alone.append(_rate_while(batches, _until(perf_counter() + seconds)))
                inserts_alone.append(ray.get(writer.write_for.remote(seconds)))
                call = writer.write_for.remote(seconds)
                together.append(_rate_while(batches, partial(_pending, call)))
                inserts.append(ray.get(call))
    for case, unit, ours, peer, theirs in (
        ("service, slots, uniform sample while inserting", "batches/s", together, "without inserts", alone),
        ("service, insert while sampling", "steps/s", inserts, "without sampling", inserts_alone),
    ):
        value, peer_value = statistics.median(ours), statistics.median(theirs)
        yield BenchRow("replay", case, value, unit, 1, peer, peer_value, value / peer_value)


def _until(end: float) -> Callable[[], bool]:
    return lambda: perf_counter() < end


def _pending(call: Any) -> bool:
    import ray

    return not ray.wait([call], timeout=0)[0]


def _rate_while(batches: Iterator[Any], busy: Callable[[], bool]) -> float:
    """Batches per second, looking every 4 batches whether to go on."""
    count, start = 0, perf_counter()
    while busy() or not count:
        for _ in range(4):
            next(batches)
        count += 4
    return count / (perf_counter() - start)
