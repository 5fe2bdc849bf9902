"""Storage of streams in contiguous chunks.

Every key has one array of `capacity * chunk_steps` rows, cut into chunks of `chunk_steps` rows. A chunk
belongs to one stream; all chunks of a stream but its newest are full, and they are linked in time order:

    stream 7    [chunk 0 |####] -> [chunk 3 |####] -> [chunk 4 |##  ]      steps 2048 .. 4671
    stream 9    [chunk 1 |####] -> [chunk 2 |#   ]

Chunks are evicted whole, oldest first, so the stored range of a stream stays contiguous. Only where steps
were lost to a crash does a stream go on behind a hole: as a new span, whose chunks are not linked to those
before it, so that no sequence crosses the hole. The number of
chunks is fixed by the byte bound and nothing is allocated later: the bound is exact. Pages of chunks
that were never written cost no memory.

Letters: B sequences, T steps, C steps per chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import native
from actors.replay.store.rewrites import Rewrites
from actors.replay.store.schema import Schema
from learner.batch import SequenceBatch

VERSION_BYTES = 8  # every step also stores the weights version that chose its action
PRIORITY_BYTES = 4  # and where priorities are kept, the one it was inserted with


def bytes_per_step(schema_bytes: int, selector_bytes: int = 0, priorities: bool = False) -> int:
    """Bytes of the bound that a step of `schema_bytes` takes; see ChunkStore for what is added."""
    return schema_bytes + VERSION_BYTES + selector_bytes + (PRIORITY_BYTES if priorities else 0)


class ChunkListener(Protocol):
    """Told of every change of the stored steps; selectors keep their books with it."""

    def inserted(self, chunk: int, offset: int, count: int) -> None: ...
    def evicted(self, chunk: int) -> None: ...


@dataclass
class _Stream:
    """A span of contiguous steps of a stream; usually its only one."""

    stream_id: int
    row: int  # row of `stream_end`
    chunks: deque[int]  # oldest first
    start: int  # stream index of the first stored step
    end: int  # stream index after the last stored step


class ChunkStore:
    """Fixed-size store of chunks.

    Args:
        schema: Columns of a step.
        max_bytes: Bound on the bytes of all arrays.
        chunk_steps: Steps per chunk, C.
        selector_bytes: Bytes per step that the selectors keep.
        priorities: Whether to keep the initial priorities that blocks bring.

    Raises:
        ValueError: The bound holds less than two chunks.
    """

    def __init__(
        self,
        schema: Schema,
        max_bytes: int,
        chunk_steps: int,
        selector_bytes: int = 0,
        priorities: bool = False,
    ) -> None:
        self.schema = schema
        self.chunk_steps = chunk_steps
        self.chunk_bytes = chunk_steps * bytes_per_step(schema.step_bytes, selector_bytes, priorities)
        self._max_bytes = max_bytes
        self.capacity = self._most_chunks = self._chunks_of(self.chunk_bytes)
        self.listeners: list[ChunkListener] = []
        rows = self.capacity * chunk_steps
        self.data = {c.key: np.empty((rows, *c.shape), c.dtype) for c in schema.columns}
        self.version = np.empty(rows, np.int64)
        self.priority = np.empty(rows, np.float32) if priorities else None  # as inserted, NaN for none
        self.rewrites = Rewrites(self)
        self._rows = native.RowGather(list(self.data.values()))
        # Per chunk: the stream, its row of `stream_end`, the stream index of the first step, ...
        self.stream_id = np.zeros(self.capacity, np.uint64)
        self.stream_row = np.zeros(self.capacity, np.int64)
        self.start = np.zeros(self.capacity, np.int64)
        self.length = np.zeros(self.capacity, np.int64)  # steps stored, 0 for a free chunk
        self.next_chunk = np.full(self.capacity, -1, np.int64)
        self.generation = np.zeros(self.capacity, np.int64)  # grows by one at every eviction
        self.stream_end = np.zeros(self.capacity, np.int64)  # by stream row
        self.evicted_steps = 0
        self._used: deque[int] = deque()  # oldest first
        self._free = list(range(self.capacity - 1, -1, -1))
        self._free_rows = list(range(self.capacity - 1, -1, -1))
        self._streams: dict[int, _Stream] = {}  # by stream: its newest span
        self._spans: dict[int, _Stream] = {}  # by row of `stream_end`: all spans
        self.before_recycle: Callable[[int], None] = lambda chunk: None  # called while a chunk still has its steps

    @property
    def num_steps(self) -> int:
        """Steps stored."""
        return int(self.length.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of the chunks in use, full or not."""
        return len(self._used) * self.chunk_bytes

    @property
    def num_chunks(self) -> int:
        """Chunks in use."""
        return len(self._used)

    def streams(self) -> dict[int, tuple[int, int]]:
        """(first stored step, end) of every stored stream, behind its last hole."""
        return {stream_id: (stream.start, stream.end) for stream_id, stream in self._streams.items()}

    def used_chunks(self) -> list[int]:
        """Chunks in use, the oldest first."""
        return list(self._used)

    def stored_rows(self) -> NDArray[np.int64]:
        """Rows of all stored steps: chunk after chunk, the oldest chunk first."""
        spans = [np.arange(self.length[chunk]) + chunk * self.chunk_steps for chunk in self._used]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def spans(self) -> list[tuple[int, int, int]]:
        """(stream, first stored step, end) of all stored spans; a stream with holes has several."""
        return [(span.stream_id, span.start, span.end) for span in self._spans.values()]

    def slices(self, stream_id: int, first: int, end: int) -> list[tuple[int, int, int]]:
        """(chunk, offset, count) of those of the steps `first` .. `end - 1` of a stream that are stored."""
        slices = []
        for span in self._spans_of(stream_id):
            step, last = max(first, span.start), min(end, span.end)
            while step < last:
                ordinal, offset = divmod(step - span.start, self.chunk_steps)
                count = min(self.chunk_steps - offset, last - step)
                slices.append((span.chunks[ordinal], offset, count))
                step += count
        return slices

    def stream_start(self, stream_id: int, end: int) -> int:
        """First stored step of a stream in the span that goes on to `end`, or `end` if none is stored."""
        return next((span.start for span in self._spans_of(stream_id) if span.start <= end <= span.end), end)

    def append(
        self,
        stream_id: int,
        first_step: int,
        version: int | NDArray[np.int64],
        data: Mapping[str, NDArray[Any]],
        skip: int = 0,
        priority: NDArray[np.float32] | None = None,
    ) -> None:
        """Copy the steps `skip`.. of a block behind the last step of its stream, evicting as needed.

        Where steps are missing in between, the block begins a new span.

        Args:
            stream_id: The stream.
            first_step: Stream index of `data[...][0]`.
            version: Weights version of the block, or of each of its steps.
            data: Arrays [T, ...] with exactly the schema's keys.
            skip: Leading steps to leave out.
            priority: Initial priorities [T] of the sequences that begin at these steps, NaN for none.
        """
        total = len(data["reward"])
        versions = np.broadcast_to(version, total)
        done = skip
        while done < total:
            stream = self._streams.get(stream_id)
            if stream is not None and stream.end != first_step + done:
                assert stream.end < first_step + done
                del self._streams[stream_id]
                stream = None
            if stream is None or self.length[stream.chunks[-1]] == self.chunk_steps:
                stream = self._open_chunk(stream_id, first_step + done)
            chunk = stream.chunks[-1]
            offset = int(self.length[chunk])
            count = min(self.chunk_steps - offset, total - done)
            low = chunk * self.chunk_steps + offset
            for key, rows in self.data.items():
                rows[low : low + count] = data[key][done : done + count]
            self.version[low : low + count] = versions[done : done + count]
            if self.priority is not None:
                self.priority[low : low + count] = np.nan if priority is None else priority[done : done + count]
            self.length[chunk] += count
            stream.end += count
            self.stream_end[stream.row] = stream.end
            self.rewrites.inserted(low, count)
            for listener in self.listeners:
                listener.inserted(chunk, offset, count)
            done += count

    def starts(self, length: int) -> NDArray[np.int64]:
        """Valid starts [capacity] of a sequence of `length` steps in each chunk; they are its first offsets."""
        after = self.stream_end[self.stream_row] - self.start - (length - 1)
        return np.asarray(np.clip(after, 0, self.length))

    def rows(self, chunk: NDArray[np.int64], offset: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Rows [B, T] of the arrays that hold the sequences starting at (chunk [B], offset [B])."""
        hops, within = np.divmod(offset[:, None] + np.arange(length), self.chunk_steps)
        most = int(hops[:, -1].max(initial=0))
        if most == 0:
            return np.asarray(chunk[:, None] * self.chunk_steps + within)
        chain = np.empty((len(chunk), most + 1), np.int64)
        chain[:, 0] = chunk
        for hop in range(most):
            chain[:, hop + 1] = self.next_chunk[chain[:, hop]]
        return np.asarray(np.take_along_axis(chain, hops, 1) * self.chunk_steps + within)

    def gather(
        self, chunk: NDArray[np.int64], offset: NDArray[np.int64], length: int, out: Mapping[str, NDArray[Any]]
    ) -> None:
        """Copy the sequences starting at (chunk [B], offset [B]) into the arrays `out` [B, T, ...] by key."""
        arrays = [out[key] for key in self.data]
        self._rows.gather_chains(chunk, offset, length, self.chunk_steps, self.next_chunk, arrays)

    def reserve(self, step_bytes: int) -> None:
        """Count `step_bytes` more for every step, for values beside the schema; the oldest chunks make room for them.

        Raises:
            ValueError: Less than two chunks would be left.
        """
        chunk_bytes = self.chunk_bytes + self.chunk_steps * step_bytes
        self._most_chunks = min(self.capacity, self._chunks_of(chunk_bytes))
        self.chunk_bytes = chunk_bytes
        while len(self._used) > self._most_chunks:
            self._evict_oldest()

    def empty_batch(self, batch_size: int, length: int) -> SequenceBatch:
        """Uninitialised arrays for a batch of `batch_size` sequences of `length` steps."""
        return SequenceBatch(
            data={c.key: np.empty((batch_size, length, *c.shape), c.dtype) for c in self.schema.columns},
            stream_id=np.empty(batch_size, np.uint64),
            first_step=np.empty(batch_size, np.int64),
            policy_version=np.empty(batch_size, np.int64),
            weight=np.empty(batch_size, np.float32),
            handle=np.empty((batch_size, 3), np.int64),
        )

    def locate(self, stream_id: int, step: int) -> tuple[int, int]:
        """(chunk, offset) of a stored step.

        Raises:
            ValueError: The step is not stored.
        """
        if not (found := self.slices(stream_id, step, step + 1)):
            stream = self._streams.get(stream_id)
            stored = "nothing" if stream is None else f"steps {stream.start} to {stream.end - 1}"
            raise ValueError(f"step {step} of stream {stream_id} is not stored; stored is {stored}")
        return found[0][:2]

    def valid(self, handle: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which handles [B, 3] (chunk, offset, generation) still name the step they were given for."""
        chunk, offset, generation = handle.T
        inside = (chunk >= 0) & (chunk < self.capacity)
        if not inside.all():
            chunk = np.where(inside, chunk, 0)
        known = (self.generation[chunk] == generation) & (offset >= 0) & (offset < self.length[chunk])
        return np.asarray(inside & known)

    def _chunks_of(self, chunk_bytes: int) -> int:
        """Chunks that fit into the bound."""
        chunks = self._max_bytes // chunk_bytes
        if chunks < 2:
            raise ValueError(
                f"a shard of {self._max_bytes} bytes holds {chunks} chunks of {chunk_bytes} bytes "
                f"({self.chunk_steps} steps); raise max_bytes or lower chunk_steps so that it holds at least 2"
            )
        return chunks

    def _open_chunk(self, stream_id: int, first_step: int) -> _Stream:
        if len(self._used) >= self._most_chunks:
            self._evict_oldest()  # perhaps the last chunk of this very stream: look the stream up after it
        chunk = self._free.pop()
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = _Stream(stream_id, self._free_rows.pop(), deque(), first_step, first_step)
            self._streams[stream_id] = self._spans[stream.row] = stream
        else:
            self.next_chunk[stream.chunks[-1]] = chunk
        stream.chunks.append(chunk)
        self._used.append(chunk)
        self.stream_id[chunk] = stream_id
        self.stream_row[chunk] = stream.row
        self.stream_end[stream.row] = stream.end
        self.start[chunk] = first_step
        self.next_chunk[chunk] = -1
        return stream

    def _evict_oldest(self) -> None:
        self.before_recycle(self._used[0])
        chunk = self._used.popleft()
        stream = self._spans[int(self.stream_row[chunk])]
        assert stream.chunks[0] == chunk
        stream.chunks.popleft()
        stream.start += int(self.length[chunk])
        if not stream.chunks:
            del self._spans[stream.row]
            if self._streams.get(stream.stream_id) is stream:
                del self._streams[stream.stream_id]
            self._free_rows.append(stream.row)
        self.evicted_steps += int(self.length[chunk])
        self.length[chunk] = 0
        self.generation[chunk] += 1
        self._free.append(chunk)
        for listener in self.listeners:
            listener.evicted(chunk)

    def table(self) -> dict[str, NDArray[Any]]:
        """The books of the chunks, without their steps; `load_table` of an equal store restores them exactly."""
        used = np.array(self._used, np.int64)
        table = {
            "used": used,
            "free": np.array(self._free, np.int64),
            "free_rows": np.array(self._free_rows, np.int64),
            "span_rows": np.array(list(self._spans), np.int64),
            "newest_rows": np.array([stream.row for stream in self._streams.values()], np.int64),
            "generation": self.generation.copy(),
            "evicted_steps": np.array(self.evicted_steps),
        }
        for name in ("stream_id", "stream_row", "start", "length"):
            table[name] = getattr(self, name)[used]
        return table

    def load_table(self, table: Mapping[str, NDArray[Any]]) -> None:
        """Take over the books of `table`; the steps themselves must be written to `stored_rows`.

        Raises:
            ValueError: They are of a store with another number of chunks.
        """
        if len(table["generation"]) != self.capacity:
            raise ValueError(
                f"the saved replay has {len(table['generation'])} chunks, this one {self.capacity}: "
                "restore it with the max_bytes, num_shards and chunk_steps it was saved with"
            )
        used = table["used"]
        self.length[:] = 0
        self.next_chunk[:] = -1
        for name in ("stream_id", "stream_row", "start", "length"):
            getattr(self, name)[used] = table[name]
        self.generation[:] = table["generation"]
        self.evicted_steps = int(table["evicted_steps"])
        self._used = deque(used.tolist())
        self._free = table["free"].tolist()
        self._free_rows = table["free_rows"].tolist()
        spans: dict[int, _Stream] = {}
        for chunk in self._used:
            self._adopt(chunk, spans)
        self._spans = {row: spans[row] for row in table["span_rows"].tolist()}
        self._streams = {spans[row].stream_id: spans[row] for row in table["newest_rows"].tolist()}

    def _spans_of(self, stream_id: int) -> list[_Stream]:
        if len(self._spans) == len(self._streams):  # no stream has a hole
            return [self._streams[stream_id]] if stream_id in self._streams else []
        return sorted((s for s in self._spans.values() if s.stream_id == stream_id), key=lambda s: s.start)

    def _adopt(self, chunk: int, spans: dict[int, _Stream]) -> None:
        """Count a chunk to its span, behind the chunks counted before."""
        stream_id, row, start = int(self.stream_id[chunk]), int(self.stream_row[chunk]), int(self.start[chunk])
        span = spans.setdefault(row, _Stream(stream_id, row, deque(), start, start))
        if span.chunks:
            self.next_chunk[span.chunks[-1]] = chunk
        span.chunks.append(chunk)
        span.end = start + int(self.length[chunk])
        self.stream_end[row] = span.end
