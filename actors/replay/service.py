"""The replay as Ray actors, one per shard; the calls to them are in `actors.replay.flow.service`.

Blocks come in as a header and their bytes: small ones inside the call, large ones through shared memory of the
sender, from other nodes as one object. The shard copies them at once, so nothing pins the object store. Batches
go out through slots of shared memory on the learner's node, elsewhere as one object each.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.metrics import Counter, Gauge

from actors.replay.config import TRAIN, ReplayConfig
from actors.replay.draw.masses import ShardReport
from actors.replay.flow.batches import ShardUnavailable
from actors.replay.flow.requests import SampleRequest
from actors.replay.shard import ReplayShard
from actors.replay.sharded import slice_batch
from actors.replay.store.schema import Schema
from actors.replay.wire.blocks import Scratch, decode_blocks
from actors.replay.wire.buffers import BufferTicket, OpenBuffers
from actors.replay.wire.segments import SplitBatch, join
from actors.replay.wire.shared import SlotError
from actors.replay.wire.slots import OpenSlots, SlotLayout
from learner.batch import SequenceBatch

REPORT_SECONDS = 0.5  # least time between two updates of a shard's metrics
MAX_BATCH_SHAPES = 4  # shapes of batches a shard keeps memory for; mixed batches have many
Payload: TypeAlias = "NDArray[np.uint8] | list[NDArray[np.uint8]] | BufferTicket"
CONCURRENCY_GROUPS = {"checkpoint": 1}
"""Groups of the shard's methods: waiting for a checkpoint goes on beside everything else."""


class ReplayShardActor:
    """One shard behind Ray calls.

    Calls run one after another, but for `checkpoint_wait`. Ray repeats none that changes something: senders
    repeat inserts themselves, in order, and an insert is stored once. Calls that come with every batch or lease leave
    no task events, whose memory Ray's GCS never gives back while a run lasts; here and in the other actors.

    Args:
        config: Size, sampling and durability.
        seed: Seed of the shard's sampling.
        index: Place of the shard among its sisters.
        directory: Where the shard's log and checkpoints are, None keeps it in memory; what is there is recovered.
        restore: Checkpoint to start from, None for the newest.
        tail: Whether what was logged after the checkpoint is replayed.
        sources: Folders of shards of another number to import from, while the directory holds nothing.
    """

    def __init__(
        self,
        config: ReplayConfig,
        seed: int,
        index: int = 0,
        directory: str | None = None,
        restore: str | None = None,
        tail: bool = True,
        sources: Sequence[str] = (),
    ) -> None:
        folder = None if directory is None else Path(directory)
        folders = [Path(source) for source in sources]
        self._shard = ReplayShard(config, seed, folder, restore=restore, tail=tail, sources=folders, index=index)
        self._index = index
        self._session = secrets.randbits(63)
        self._slots = OpenSlots()
        self._buffers = OpenBuffers()
        self._scratch = Scratch()
        self._batches: dict[tuple[int, int], SequenceBatch] = {}
        self._layouts: dict[tuple[int, int], SlotLayout] = {}
        self._checkpoints: dict[str, Any] = {}
        self._metrics = _ShardMetrics(index, self._shard.stats())

    @ray.method(max_task_retries=-1, enable_task_events=False)  # type: ignore[untyped-decorator]
    def ping(self) -> int:
        """The shard's index."""
        return self._index

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def session(self) -> int:
        """Tells this process from an earlier one of the same actor; see `insert`."""
        return self._session

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def shares_memory(self, mark: BufferTicket) -> bool:
        """Whether this process can read the buffers of the box with this mark."""
        try:
            self._buffers.read(mark)
        except SlotError:
            return False
        return True

    @ray.method(max_task_retries=0, enable_task_events=False)  # type: ignore[untyped-decorator]
    def insert(self, header: bytes, payload: Payload, session: int | None = None) -> int:
        """Store the blocks of one message; the steps stored, without those stored before.

        Args:
            header: See `actors.replay.wire.blocks`.
            payload: The bytes, whole or in pieces, or where they are.
            session: Whom the message is for; None for whoever gets it.

        Raises:
            ShardUnavailable: The message is for an earlier process; see `actors.replay.flow.credits`.
            ValueError: The message is damaged, a stream has a gap, or the schema differs.
            SlotError: The payload is in memory that this process cannot read.
        """
        if session not in (None, self._session):
            raise ShardUnavailable(f"shard {self._index} was restarted after the message was sent")
        stored = self._shard.insert_many(decode_blocks(header, self._whole(payload)))
        self._metrics.report(self._shard)
        return stored

    @ray.method(max_task_retries=0, enable_task_events=False)  # type: ignore[untyped-decorator]
    def probe(self, length: int, view: str = TRAIN) -> ShardReport:
        """What whoever draws through a view has to know of the shard."""
        shard = self._shard
        schema = None if shard.schema is None else shard.schema.as_lists()
        node = ray.get_runtime_context().get_node_id()
        masses, fractions = shard.masses(length, view), shard.fractions(view)
        return ShardReport(masses, fractions, float(shard.num_items(length)), node, schema)

    @ray.method(max_task_retries=0, enable_task_events=False)  # type: ignore[untyped-decorator]
    def sample_into(self, request: bytes) -> bool | str:
        """Write a part of a batch into a slot of this node; False if no sequence is stored.

        A slot that cannot be opened, or is not the ticket's any more, is said in words: most such tickets were given
        up, nobody looks at their answer, and Ray would print an exception.

        Args:
            request: A packed `SampleRequest` with a ticket.
        """
        asked, shard = SampleRequest.unpack(request), self._shard
        assert asked.ticket is not None
        if shard.schema is None or not shard.num_items(asked.length):
            return False
        totals = np.array(asked.totals)
        try:
            with self._slots.writing(asked.ticket, self._layout(shard.schema, asked)) as slot:
                part = slice_batch(slot, asked.low, asked.low + asked.batch_size)
                shard.sample(asked.batch_size, asked.length, totals, asked.num_items, part, asked.view)
        except SlotError as error:
            return str(error)
        self._metrics.report(shard)
        return True

    @ray.method(max_task_retries=0, enable_task_events=False)  # type: ignore[untyped-decorator]
    def sample(
        self,
        batch_size: int,
        length: int,
        totals: NDArray[np.float64] | None = None,
        num_items: float | None = None,
        view: str = TRAIN,
    ) -> SequenceBatch:
        """A batch; see `ReplayShard.sample`."""
        return self._shard.sample(batch_size, length, totals, num_items, view=view)

    @ray.method(max_task_retries=0, enable_task_events=False)  # type: ignore[untyped-decorator]
    def sample_object(self, request: bytes) -> SplitBatch | Literal[False]:
        """A part of a batch as one object for other nodes; False if no sequence is stored.

        Args:
            request: A packed `SampleRequest`.
        """
        asked, shard = SampleRequest.unpack(request), self._shard
        if not shard.num_items(asked.length):
            return False
        key = (asked.batch_size, asked.length)
        memory = self._batches.get(key)  # Ray copies the answer before the next call runs
        batch = shard.sample(*key, np.array(asked.totals), asked.num_items, memory, asked.view)
        if len(self._batches) < MAX_BATCH_SHAPES:
            self._batches[key] = batch
        self._metrics.report(shard)
        return SplitBatch.of(batch)

    @ray.method(max_task_retries=0, enable_task_events=False)  # type: ignore[untyped-decorator]
    def write(
        self,
        handle: NDArray[np.int64],
        values: dict[str, NDArray[Any]] | None = None,
        priority: NDArray[np.float32] | None = None,
        version: int | None = None,
        length: int | None = None,
    ) -> int:
        """See `ReplayShard.write`."""
        return self._shard.write(handle, values, priority, version, length)

    def read(self, stream_id: int, first_step: int, length: int) -> SequenceBatch:
        """Steps of one stream; see `ReplayShard.read`."""
        return self._shard.read(stream_id, first_step, length)

    def masses(self, length: int, view: str = TRAIN) -> NDArray[np.float64]:
        """The masses [K] of a view; see `ReplayShard.masses`."""
        return self._shard.masses(length, view)

    def num_items(self, length: int) -> int:
        """Valid starts of sequences of `length` steps."""
        return self._shard.num_items(length)

    def num_steps(self) -> int:
        """Steps stored."""
        return self._shard.num_steps

    def streams(self) -> dict[int, tuple[int, int]]:
        """(first stored step, end) of every stored stream."""
        return self._shard.streams()

    def next_steps(self) -> dict[int, int]:
        """The first step not inserted yet of every stream; see `ReplayShard.next_steps`."""
        return self._shard.next_steps()

    def recovery(self) -> Any:
        """What recovery did when the actor started; see `ReplayShard.recovery`."""
        return self._shard.recovery

    @ray.method(enable_task_events=False)  # type: ignore[untyped-decorator]
    def stats(self) -> dict[str, float]:
        """Sizes now and counts since the beginning."""
        return self._shard.stats()

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def checkpoint_begin(self, name: str) -> str:
        """Begin a checkpoint of the present state; see `ReplayShard.checkpoint`. Its name."""
        self._checkpoints[name] = self._shard.checkpoint(name)
        return name

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def checkpoint_wait(self, name: str) -> Any:
        """Wait until a checkpoint is written; its `CheckpointInfo`. Call it in the group "checkpoint".

        Raises:
            ShardUnavailable: This process did not begin it: one before it did.
            OSError: It could not be written.
        """
        pending = self._checkpoints.get(name)
        if pending is None:
            raise ShardUnavailable(f"shard {self._index} was restarted after checkpoint {name} was begun")
        try:
            return pending.wait()
        finally:
            self._checkpoints.pop(name, None)

    def retain(self, names: Sequence[str]) -> None:
        """Drop all other checkpoints; see `ReplayShard.retain`. Call it in the group "checkpoint"."""
        self._shard.retain(names)

    def _whole(self, payload: Payload) -> NDArray[np.uint8]:
        """The bytes of a message, valid until the next one."""
        if isinstance(payload, BufferTicket):
            return self._buffers.read(payload)
        if isinstance(payload, list):
            whole = self._scratch.take(sum(piece.nbytes for piece in payload))
            join(payload, whole)
            return whole
        return payload

    def _layout(self, schema: Schema, request: SampleRequest) -> SlotLayout:
        key = (request.slot_size, request.length)
        layout = self._layouts.get(key)
        if layout is None or layout.schema is not schema:
            layout = self._layouts[key] = SlotLayout(schema, *key)
        return layout


class _ShardMetrics:
    """A shard's figures for Prometheus."""

    def __init__(self, index: int, stats: dict[str, float]) -> None:
        self._gauges = {
            name: Gauge(f"worldfleet_replay_{name}", text, tag_keys=("shard",))
            for name, text in (("steps", "Steps stored"), ("bytes", "Bytes in use"), ("streams", "Streams stored"))
        }
        self._counters = {
            name: Counter(f"worldfleet_replay_{name}_steps", text, tag_keys=("shard",))
            for name, text in (
                ("inserted", "Steps inserted"),
                ("duplicate", "Steps of repeated blocks"),
                ("evicted", "Steps evicted"),
                ("sampled", "Steps sampled"),
            )
        }
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags({"shard": str(index)})
        self._next_report = 0.0
        self.reset(stats)

    def reset(self, stats: dict[str, float]) -> None:
        """Count from here on."""
        self._reported = stats

    def report(self, shard: ReplayShard) -> None:
        """Publish the shard's figures now and then."""
        now = monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_SECONDS
        stats = shard.stats()
        for name, gauge in self._gauges.items():
            gauge.set(stats[name])
        for name, counter in self._counters.items():
            delta = stats[f"{name}_steps"] - self._reported[f"{name}_steps"]
            if delta > 0:
                counter.inc(delta)
        self._reported = stats


def begin_checkpoint(shards: Sequence[Any], name: str) -> list[Any]:
    """Checkpoint all shards at once while they go on serving; calls that end with the `CheckpointInfo` of each."""
    begun = [shard.checkpoint_begin.remote(name) for shard in shards]
    waiting = (shard.checkpoint_wait.options(concurrency_group="checkpoint") for shard in shards)
    return [wait.remote(name) for wait, name in zip(waiting, begun, strict=True)]  # Ray runs it once it is made


def retain_checkpoints(shards: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Calls that drop all other checkpoints while the shards go on serving."""
    return [shard.retain.options(concurrency_group="checkpoint").remote(names) for shard in shards]
