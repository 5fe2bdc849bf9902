"""The replay as Ray actors: one actor per shard, and the learner's and the senders' calls to them.

Blocks come in as a header and their bytes: small ones inside the call, large ones through shared memory of the
sender, from other nodes as one object. The shard copies them at once, so nothing pins the object store. Batches
go out through slots of shared memory on the learner's node, elsewhere as one object each. What to do when a call
fails is decided in `batches`, `write_back` and `credits`, which know no Ray.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Literal, TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError
from ray.util.metrics import Counter, Gauge

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.draw.masses import ShardReport
from actors.replay.flow.batches import BatchQueue, SampleRequest, ShardUnavailable, Transport
from actors.replay.flow.credits import Message
from actors.replay.flow.writebacks import WriteBackSender
from actors.replay.shard import ReplayShard
from actors.replay.sharded import slice_batch
from actors.replay.store.schema import Schema
from actors.replay.wire.blocks import Scratch, decode_blocks, encode_pieces
from actors.replay.wire.buffers import BufferTicket, OpenBuffers, SharedBuffer, SharedBufferPool
from actors.replay.wire.segments import SplitBatch, join, split
from actors.replay.wire.shared import SlotError
from actors.replay.wire.slots import OpenSlots, SlotLayout
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch

REPORT_SECONDS = 0.5  # least time between two updates of a shard's metrics
INLINE_BYTES = 64 << 10  # payloads up to this size travel inside the call, larger ones through the object store
MAX_BATCH_SHAPES = 4  # shapes of batches a shard keeps memory for; mixed batches have many
Payload: TypeAlias = "NDArray[np.uint8] | list[NDArray[np.uint8]] | BufferTicket"
CONCURRENCY_GROUPS = {"checkpoint": 1}
"""Groups of the shard's methods: waiting for a checkpoint goes on beside everything else."""


class ReplayShardActor:
    """One shard behind Ray calls.

    Calls run one after another, but for `checkpoint_wait`. Ray repeats none that changes something: senders
    repeat inserts themselves, in order, and an insert is stored once.

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

    @ray.method(max_task_retries=-1)  # type: ignore[untyped-decorator]
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

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
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

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def probe(self, length: int) -> ShardReport:
        """What a learner has to know of the shard."""
        shard = self._shard
        schema = None if shard.schema is None else shard.schema.as_lists()
        node = ray.get_runtime_context().get_node_id()
        return ShardReport(shard.masses(length), shard.fractions, float(shard.num_items(length)), node, schema)

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def sample_into(self, request: bytes) -> bool | str:
        """Write a part of a batch into a slot of this node; False if no sequence is stored.

        A slot that cannot be opened, or is not the ticket's any more, is said in words: most such tickets were given
        up, nobody looks at their answer, and Ray would print an exception.

        Args:
            request: A packed `SampleRequest` with a ticket.
        """
        asked, shard = SampleRequest.unpack(request), self._shard
        assert asked.ticket is not None
        if shard.schema is None or not shard.masses(asked.length)[0] > 0:
            return False
        try:
            with self._slots.writing(asked.ticket, self._layout(shard.schema, asked)) as slot:
                part = slice_batch(slot, asked.low, asked.low + asked.batch_size)
                shard.sample(asked.batch_size, asked.length, np.array(asked.totals), asked.num_items, out=part)
        except SlotError as error:
            return str(error)
        self._metrics.report(shard)
        return True

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def sample(
        self,
        batch_size: int,
        length: int,
        totals: NDArray[np.float64] | None = None,
        num_items: float | None = None,
    ) -> SequenceBatch:
        """A batch; see `ReplayShard.sample`."""
        return self._shard.sample(batch_size, length, totals, num_items)

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def sample_object(self, request: bytes) -> SplitBatch | Literal[False]:
        """A part of a batch as one object for other nodes; False if no sequence is stored.

        Args:
            request: A packed `SampleRequest`.
        """
        asked, shard = SampleRequest.unpack(request), self._shard
        if not shard.masses(asked.length)[0] > 0:
            return False
        key = (asked.batch_size, asked.length)
        memory = self._batches.get(key)  # Ray copies the answer before the next call runs
        batch = shard.sample(*key, np.array(asked.totals), asked.num_items, out=memory)
        if len(self._batches) < MAX_BATCH_SHAPES:
            self._batches[key] = batch
        self._metrics.report(shard)
        return SplitBatch.of(batch)

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def update_priorities(self, handle: NDArray[np.int64], priority: NDArray[np.float32]) -> int:
        """See `ReplayShard.update_priorities`."""
        return self._shard.update_priorities(handle, priority)

    @ray.method(max_task_retries=0)  # type: ignore[untyped-decorator]
    def write(self, handle: NDArray[np.int64], key: str, values: NDArray[Any], skip: int) -> int:
        """See `ReplayShard.write`."""
        return self._shard.write(handle, key, values, skip)

    def read(self, stream_id: int, first_step: int, length: int) -> SequenceBatch:
        """Steps of one stream; see `ReplayShard.read`."""
        return self._shard.read(stream_id, first_step, length)

    def masses(self, length: int) -> NDArray[np.float64]:
        """The masses [K] of the shard's selector; see `ReplayShard.masses`."""
        return self._shard.masses(length)

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

    def stats(self) -> dict[str, float]:
        """Sizes now and counts since the beginning."""
        return self._shard.stats()

    def checkpoint_begin(self, name: str) -> str:
        """Begin a checkpoint of the present state; see `ReplayShard.checkpoint`. Its name."""
        self._checkpoints[name] = self._shard.checkpoint(name)
        return name

    def checkpoint_wait(self, name: str) -> Any:
        """Wait until a checkpoint is written; its `CheckpointInfo`. Call it in the group "checkpoint".

        Raises:
            ValueError: It was not begun.
            OSError: It could not be written.
        """
        pending = self._checkpoints.get(name)
        if pending is None:
            raise ValueError(f"checkpoint {name!r} was not begun, only {sorted(self._checkpoints)}")
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


class RayShards:
    """Calls of a learner to shard actors; a `ShardPort` and a `WriteBackPort`.

    Args:
        shards: Handles of the shard actors, in the order of their indices.
    """

    def __init__(self, shards: Sequence[Any]) -> None:
        self._shards = list(shards)
        self.num_shards = len(self._shards)
        self.node = ray.get_runtime_context().get_node_id()

    def probe(self, shard: int, length: int) -> Any:
        return self._shards[shard].probe.remote(length)

    def sample(self, shard: int, request: SampleRequest) -> Any:
        method = self._shards[shard].sample_object if request.ticket is None else self._shards[shard].sample_into
        return method.remote(request.pack())

    def update_priorities(self, shard: int, handle: NDArray[np.int64], priority: NDArray[np.float32]) -> Any:
        return self._shards[shard].update_priorities.remote(handle, priority)

    def write(self, shard: int, handle: NDArray[np.int64], key: str, values: NDArray[Any], skip: int) -> Any:
        return self._shards[shard].write.remote(handle, key, values, skip)

    def wait(self, calls: Sequence[Any], timeout: float) -> list[Any]:
        if not calls:
            sleep(timeout)
            return []
        ready: list[Any] = ray.wait(list(calls), num_returns=1, timeout=timeout)[0]
        return ready

    def result(self, call: Any) -> Any:
        answer = answer_of(call)
        if isinstance(answer, str):
            raise SlotError(answer)
        return answer


class RayInserts:
    """Insert calls to one shard actor; an `InsertPort`.

    Args:
        shard: Handle of the shard actor.
        box: Where large messages are packed if the shard shares our memory; without one they are objects.
    """

    def __init__(self, shard: Any, box: SharedBufferPool | None = None) -> None:
        self._shard, self._box = shard, box
        self._session: int | None = None  # until the first message
        self._shares_memory = False

    def message(self, blocks: Sequence[Block]) -> Message:
        """Blocks as a message that may be sent more than once; their arrays are free again."""
        header, pieces = encode_pieces(blocks)
        num_bytes, num_steps = sum(piece.nbytes for piece in pieces), sum(block.num_steps for block in blocks)
        if num_bytes <= INLINE_BYTES:
            return Message(header, np.concatenate(pieces), num_bytes, num_steps)
        self._connect_first()
        if self._box is not None and self._shares_memory:
            with suppress(SlotError):  # it is full
                buffer = self._box.pack(pieces)
                return Message(header, buffer, num_bytes, num_steps, partial(self._box.take_back, buffer))
        parts = [part for piece in pieces for part in split(piece)]
        return Message(header, ray.put(parts), num_bytes, num_steps)

    def connect(self) -> None:
        self._session = self.result(self._shard.session.remote())
        if self._box is not None:
            self._shares_memory = self.result(self._shard.shares_memory.remote(self._box.mark))

    def insert(self, message: Message) -> Any:
        self._connect_first()
        payload = message.payload
        if isinstance(payload, SharedBuffer):
            payload = payload.ticket if self._shares_memory else split(payload.content)
        elif isinstance(payload, np.ndarray) and payload.nbytes > INLINE_BYTES:
            payload = split(payload)
        return self._shard.insert.remote(message.header, payload, self._session)

    def _connect_first(self) -> None:
        """Wait for the shard before the first message."""
        if self._session is None:
            session = ray.get(self._shard.session.options(max_task_retries=-1).remote())
            if self._box is not None:
                asked = self._shard.shares_memory.options(max_task_retries=-1).remote(self._box.mark)
                self._shares_memory = ray.get(asked)
            self._session = session

    def done(self, call: Any) -> bool:
        return bool(ray.wait([call], timeout=0)[0])

    def result(self, call: Any) -> Any:
        """See `answer_of`; but a shard that is dead for good is an error, not worth waiting for."""
        try:
            return answer_of(call)
        except ShardUnavailable as error:
            if isinstance(error.__cause__, ActorDiedError):
                raise error.__cause__ from None
            raise


class RemoteBatches(BatchQueue):
    """Endless batches from shard actors, and the way back for priorities; see `BatchQueue` for the arguments."""

    def __init__(
        self,
        shards: Sequence[Any],
        batch_size: int,
        length: int,
        seed: int,
        in_flight: int = 2,
        mixed: bool = False,
        transport: Transport = "auto",
        wait_seconds: float = 60.0,
        stall_seconds: float = 1.0,
    ) -> None:
        port = RayShards(shards)
        super().__init__(port, batch_size, length, seed, in_flight, mixed, transport, wait_seconds, stall_seconds)
        self._writebacks = WriteBackSender(port)

    def write_back(self, batch: SequenceBatch, result: UpdateResult) -> None:
        """Send an update's priorities and write-backs to the shards; waits for none, and counts failures."""
        self._writebacks.send(batch, result, self.present)

    def stats(self) -> dict[str, float]:
        """See `BatchQueue.stats`; with the calls of `write_back` and how many failed."""
        counts = {"writeback_calls": float(self._writebacks.sent), "writeback_failed": float(self._writebacks.failed)}
        return super().stats() | counts


def answer_of(call: Any) -> Any:
    """The answer of a call to a shard.

    Raises:
        ShardUnavailable: The shard is dead, restarting or unreachable, or its answer is lost.
        Exception: What the shard raised.
    """
    try:
        return ray.get(call)
    except (RayActorError, ObjectLostError) as error:
        raise ShardUnavailable(str(error).strip().partition("\n")[0]) from error


def begin_checkpoint(shards: Sequence[Any], name: str) -> list[Any]:
    """Checkpoint all shards at once while they go on serving; calls that end with the `CheckpointInfo` of each."""
    begun = [shard.checkpoint_begin.remote(name) for shard in shards]
    waiting = (shard.checkpoint_wait.options(concurrency_group="checkpoint") for shard in shards)
    return [wait.remote(name) for wait, name in zip(waiting, begun, strict=True)]  # Ray runs it once it is made


def retain_checkpoints(shards: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Calls that drop all other checkpoints while the shards go on serving."""
    return [shard.retain.options(concurrency_group="checkpoint").remote(names) for shard in shards]
