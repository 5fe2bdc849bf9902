"""The learner's and the senders' calls to the shard actors of `actors.replay.service`.

What to do when a call fails is decided in `batches`, `writebacks` and `credits`, which know no Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import sleep
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError

from actors.records import Block
from actors.replay.config import TRAIN
from actors.replay.flow.batches import BatchQueue, ShardUnavailable, Transport
from actors.replay.flow.credits import Message
from actors.replay.flow.requests import SampleRequest
from actors.replay.flow.writebacks import WriteBackSender
from actors.replay.wire.blocks import encode_pieces
from actors.replay.wire.buffers import SharedBuffer, SharedBufferPool
from actors.replay.wire.segments import split
from actors.replay.wire.shared import SlotError
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch

INLINE_BYTES = 64 << 10  # payloads up to this size travel inside the call, larger ones through the object store


class RayShards:
    """Calls of a learner to shard actors; a `ShardPort` and a `WriteBackPort`.

    Args:
        shards: Handles of the shard actors, in the order of their indices.
    """

    def __init__(self, shards: Sequence[Any]) -> None:
        self._shards = list(shards)
        self.num_shards = len(self._shards)
        self.node = ray.get_runtime_context().get_node_id()

    def probe(self, shard: int, length: int, view: str) -> Any:
        return self._shards[shard].probe.remote(length, view)

    def sample(self, shard: int, request: SampleRequest) -> Any:
        method = self._shards[shard].sample_object if request.ticket is None else self._shards[shard].sample_into
        return method.remote(request.pack())

    def write(
        self,
        shard: int,
        handle: NDArray[np.int64],
        values: dict[str, NDArray[Any]],
        priority: NDArray[np.float32] | None,
        version: int | None,
        length: int,
    ) -> Any:
        return self._shards[shard].write.remote(handle, values, priority, version, length)

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
        view: str = TRAIN,
    ) -> None:
        port = RayShards(shards)
        waits = (wait_seconds, stall_seconds)
        super().__init__(port, batch_size, length, seed, in_flight, mixed, transport, *waits, view=view)
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
