"""What makes a shard durable: its log, its manifests, and the thread that writes them.

One watermark per stream says up to which step the log holds it. Under "sync" a block is in the log before it
is in the store; under "async" a thread writes what was stored, soon after; under "none" only a checkpoint
does. All three write the same records, and a checkpoint is what the log lacks and then a manifest.

    shard's thread    insert -> store        checkpoint: books copied, spans noted     insert, sample, ...
    writer's thread            spans of chunks -> records -> fdatasync -> manifest by rename -> thin out the log

Stored steps never change until their chunk is recycled, so the writer reads them in place; an insert that
would recycle a chunk waits until it is written. Keys that are written late are copied first.

The log from the newest manifest on is complete; before it, records of steps that no kept manifest holds may
be gone. When the log grows too large between checkpoints the shard commits a manifest of its own (`AUTO`) and
drops what that one does not need. With R other manifests kept, the disk holds at most 1.5 (R + 1) + 0.75 times
the shard's byte bound, and one segment.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Condition, Thread, current_thread

import numpy as np

from actors.records import Block
from actors.replay.config import DurabilityConfig
from actors.replay.store.chunks import ChunkStore
from actors.replay.store.files import FolderLock
from actors.replay.store.log import SegmentLog
from actors.replay.store.manifest import Manifest, manifest_path, write_manifest
from actors.replay.store.pending import CheckpointInfo, PendingCheckpoint
from actors.replay.store.record import Encoded, Encoder, Steps
from actors.replay.store.scan import Record

_ASYNC_BYTES = 256 << 20  # stored and not yet written under "async"; inserts wait beyond it


@dataclass
class _Span:
    """Consecutive rows of one chunk that are to be logged."""

    chunk: int
    row: int
    count: int
    stream_id: int
    first_step: int


@dataclass
class _Job:
    """Spans to log, and what to do when they are on the disk."""

    spans: Sequence[_Span]
    commit: Callable[[int], CheckpointInfo] = lambda num_bytes: CheckpointInfo("", num_bytes, 0, 0.0)
    pending: PendingCheckpoint | None = None
    failures: int = 0  # of the journal when the job was made


@dataclass
class _Queue:
    """What the writer has to do; guarded by the journal's condition."""

    jobs: deque[_Job] = field(default_factory=deque)
    spans: dict[int, _Span] = field(default_factory=dict)  # "async": by chunk, not yet in a job
    due: float = 0.0  # when these must be written
    steps: int = 0  # in spans, queued or in a job, not yet written
    busy: Counter[int] = field(default_factory=Counter)  # chunk -> spans not yet written


class Journal:
    """Keeps a shard's content on disk.

    Args:
        log: The shard's log.
        manifests: The manifests in its folder.
        config: Mode, compression and delays.
        shard_bytes: Byte bound of the shard; the disk's follows from it.
        lock: Held on the folder; released at the end.
    """

    def __init__(
        self,
        log: SegmentLog,
        manifests: Iterable[Manifest],
        config: DurabilityConfig,
        shard_bytes: int,
        lock: FolderLock,
    ) -> None:
        self._log, self._config, self._lock = log, config, lock
        self._manifests = {manifest.name: replace(manifest, arrays={}) for manifest in manifests}
        self._next_ordinal = max((m.ordinal for m in self._manifests.values()), default=-1) + 1
        self._shard_bytes = shard_bytes
        self._logged: dict[int, int] = {}  # stream -> steps below are in the log, or will be when the queue is done
        self._store: ChunkStore | None = None
        self._insert_encoder, self._encoder = Encoder(config.compression), Encoder(config.compression)
        self._changed = Condition()
        self._queue = _Queue()
        self._thread: Thread | None = None
        self._error: OSError | None = None  # of the last write under "async"
        self._failures = 0
        self._limit = 3 * shard_bytes // 2
        self._thinning: PendingCheckpoint | None = None

    @property
    def log_bytes(self) -> int:
        """Bytes of the log on disk."""
        return self._log.nbytes

    @property
    def unlogged_steps(self) -> int:
        """Stored steps that are not yet scheduled to be in the log."""
        if self._store is None:
            return 0
        spans = self._store.streams().items()
        return sum(max(0, end - max(self._logged.get(stream, 0), start)) for stream, (start, end) in spans)

    def bind(self, store: ChunkStore, logged: dict[int, int]) -> None:
        """Take charge of a store.

        Args:
            store: Where the steps are.
            logged: Stream -> end of the steps that are in the log.
        """
        self._store, self._logged = store, dict(logged)
        store.before_recycle = self._before_recycle

    def admit(self, blocks: Sequence[tuple[Block, int]]) -> None:
        """Called before blocks are stored: log them ("sync") or wait for room ("async").

        Args:
            blocks: Each with the number of its leading steps that are left out.

        Raises:
            OSError: The log cannot be written; the blocks must not be stored.
        """
        if self._config.mode == "sync":
            records = [self._encode_block(block, low) for block, skip in blocks for low in self._pieces(block, skip)]
            self._log.append(records, sync=True)
            for block, _ in blocks:
                self._logged[block.stream_id] = block.first_step + block.num_steps
        elif self._config.mode == "async":
            self._wait_for_room(sum(block.num_steps - skip for block, skip in blocks))

    def stored(self, stream_id: int) -> None:
        """Called when steps of a stream were stored: schedule them ("async")."""
        if self._config.mode != "async":
            return
        assert self._store is not None
        store, queue = self._store, self._queue
        with self._changed:
            low = self._logged.get(stream_id, 0)
            for chunk, offset, count in store.slices(stream_id, low, store.streams()[stream_id][1]):
                span = queue.spans.get(chunk)
                if span is None:
                    row, first = chunk * store.chunk_steps + offset, int(store.start[chunk]) + offset
                    queue.spans[chunk] = _Span(chunk, row, count, stream_id, first)
                    queue.busy[chunk] += 1
                else:
                    span.count += count
                queue.steps += count
            self._logged[stream_id] = store.streams()[stream_id][1]
            if self._thread is None:
                queue.due = time.monotonic() + self._config.max_delay_seconds / 2
            self._start()

    def crowded(self) -> bool:
        """Whether the shard should commit a manifest so that the log can be thinned out."""
        if self._config.mode == "none" or self._log.nbytes <= self._limit:
            return False
        if self._thinning is None or self._thinning.done:
            return True
        if self._log.nbytes > self._limit + self._shard_bytes // 4:
            self._thinning.wait()
        return False

    def checkpoint(self, manifest: Manifest, thin_out: bool = False) -> PendingCheckpoint:
        """Write what the log lacks of the store and then the manifest, in the background.

        Args:
            manifest: The shard's state now; its ordinal and sequence are set here.
            thin_out: Whether to drop unneeded records afterwards.
        """
        begin = time.monotonic()
        manifest = replace(manifest, ordinal=self._next_ordinal, sequence=self._log.next_sequence)
        self._next_ordinal += 1
        pending = PendingCheckpoint(manifest.name)

        def commit(logged_bytes: int) -> CheckpointInfo:
            num_bytes = write_manifest(self._log.directory, manifest)
            self._manifests[manifest.name] = replace(manifest, arrays={})
            if thin_out:
                self._thin_out()
            seconds = time.monotonic() - begin
            return CheckpointInfo(manifest.name, logged_bytes + num_bytes, manifest.num_steps, seconds)

        if thin_out:
            self._thinning = pending
        with self._changed:
            spans = self._take_spans() + self._unlogged_spans()
            self._queue.jobs.append(_Job(spans, commit, pending, self._failures))
            self._start()
        return pending

    def retain(self, names: Sequence[str]) -> None:
        """Remove the manifests not named but the newest, and what only they needed.

        Raises:
            OSError: The log could not be thinned out; nothing that is needed is lost.
        """
        pending = PendingCheckpoint("retain")

        def commit(_: int) -> CheckpointInfo:
            newest = max(self._manifests.values(), key=lambda m: m.ordinal, default=None)
            for name in list(self._manifests):
                if name not in names and self._manifests[name] is not newest:
                    manifest_path(self._log.directory, name).unlink()
                    del self._manifests[name]
            self._thin_out()
            return CheckpointInfo("retain", 0, 0, 0.0)

        with self._changed:
            self._queue.jobs.append(_Job([], commit, pending, self._failures))
            self._start()
        pending.wait()

    def settle(self) -> None:
        """Wait until everything scheduled is written."""
        with self._changed:
            self._queue.due = 0.0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thread is None)

    def close(self) -> None:
        """Write what is scheduled, close the log and give the folder free.

        Raises:
            OSError: It could not be written.
        """
        self.settle()
        try:
            self._log.close()
        finally:
            self._lock.release()
        if self._error is not None:
            raise self._error

    # -- the shard's thread ------------------------------------------------------------------------------

    def _pieces(self, block: Block, skip: int) -> range:
        """First steps of the records of a block: none is longer than a chunk."""
        assert self._store is not None
        return range(skip, block.num_steps, self._store.chunk_steps)

    def _encode_block(self, block: Block, low: int) -> Encoded:
        assert self._store is not None
        high = min(low + self._store.chunk_steps, block.num_steps)
        data = {key: value[low:high] for key, value in block.data.items()}
        version = np.full(high - low, block.policy_version, np.int64)
        priority = None if block.priority is None else block.priority[low:high]
        steps = Steps(block.stream_id, block.first_step + low, version, data, priority)
        return self._insert_encoder.encode(self._store.schema, steps)

    def _wait_for_room(self, steps: int) -> None:
        assert self._store is not None
        most = _ASYNC_BYTES // (self._store.schema.step_bytes + 1)
        with self._changed:
            if self._error is not None:
                self._retry()
            while self._queue.steps and self._queue.steps + steps > most:
                self._queue.due = 0.0
                self._changed.notify_all()
                self._changed.wait()
            if self._error is not None:
                raise self._error

    def _retry(self) -> None:
        """After a failed write, try again to bring to the log what it lacks."""
        self._error = None
        self._queue.jobs.append(_Job(self._unlogged_spans(), failures=self._failures))
        self._start()
        self._changed.wait_for(lambda: self._thread is None)

    def _unlogged_spans(self) -> list[_Span]:
        """Everything stored above the watermarks, the oldest chunk first; the watermarks move up."""
        if self._store is None:
            return []
        store, spans = self._store, []
        for chunk in store.used_chunks():
            stream_id, start = int(store.stream_id[chunk]), int(store.start[chunk])
            end = start + int(store.length[chunk])
            first = max(start, self._logged.get(stream_id, 0))
            if first < end:
                spans.append(_Span(chunk, chunk * store.chunk_steps + first - start, end - first, stream_id, first))
                self._logged[stream_id] = end
                self._queue.busy[chunk] += 1
                self._queue.steps += end - first
        return spans

    def _take_spans(self) -> list[_Span]:
        spans = list(self._queue.spans.values())
        self._queue.spans.clear()
        return spans

    def _before_recycle(self, chunk: int) -> None:
        """Wait until a chunk is written."""
        with self._changed:
            if self._queue.busy[chunk]:
                self._queue.due = 0.0
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._queue.busy[chunk] or self._thread is None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="replay-journal", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    # -- the writer's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        """Do what is in the queue; the thread ends when there is nothing left."""
        try:
            while (job := self._next_job()) is not None:
                outcome: CheckpointInfo | OSError = OSError("the writer of the replay log has died")
                try:
                    outcome = self._perform(job)
                except OSError as error:
                    outcome = error
                finally:
                    if job.pending is not None:
                        job.pending.finish(outcome)
        finally:
            with self._changed:
                if self._thread is current_thread():  # it dies of an error nobody foresaw
                    self._thread = None
                    self._changed.notify_all()

    def _next_job(self) -> _Job | None:
        queue = self._queue
        with self._changed:
            while not queue.jobs and queue.spans and (left := queue.due - time.monotonic()) > 0:
                self._changed.wait(left)
            if queue.jobs:
                return queue.jobs.popleft()
            if queue.spans:
                queue.due = time.monotonic() + self._config.max_delay_seconds / 2
                return _Job(self._take_spans(), failures=self._failures)
            self._thread = None  # under the same lock: whoever adds a job now starts another thread
            self._changed.notify_all()
            return None

    def _perform(self, job: _Job) -> CheckpointInfo:
        num_bytes = 0
        try:
            for span, record in self._encoded(job.spans):
                self._log.append([record], sync=False)
                num_bytes += record.nbytes
                with self._changed:
                    self._queue.busy[span.chunk] -= 1
                    self._queue.steps -= span.count
                    self._changed.notify_all()
            self._log.sync()
        except OSError as error:
            self._fail(job, error)
            raise
        if self._failures != job.failures:
            raise OSError("steps of this checkpoint could not be written to the replay log")
        return job.commit(num_bytes)

    def _encoded(self, spans: Sequence[_Span]) -> Iterator[tuple[_Span, Encoded]]:
        """The records of spans; the next one is encoded while the caller writes one."""
        if len(spans) == 1:
            yield spans[0], self._encode(spans[0])
            return
        with ThreadPoolExecutor(1) as ahead:
            waiting: deque[tuple[_Span, Future[Encoded]]] = deque()
            for span in spans:
                waiting.append((span, ahead.submit(self._encode, span)))
                if len(waiting) > 1:
                    first, record = waiting.popleft()
                    yield first, record.result()
            for last, record in waiting:
                yield last, record.result()

    def _encode(self, span: _Span) -> Encoded:
        assert self._store is not None
        rows = slice(span.row, span.row + span.count)
        store, late = self._store, self._store.rewrites.keys
        data = {k: v[rows].copy() if k in late else v[rows] for k, v in store.data.items()}
        priority = None if store.priority is None or np.isnan(store.priority[rows]).all() else store.priority[rows]
        steps = Steps(span.stream_id, span.first_step, store.version[rows], data, priority)
        return self._encoder.encode(self._store.schema, steps)

    def _fail(self, job: _Job, error: OSError) -> None:
        """Nothing of the job counts as logged, nor what was to follow it."""
        with self._changed:
            queue = self._queue
            lost = [*job.spans, *self._take_spans()]
            for span in lost:
                self._logged[span.stream_id] = min(self._logged[span.stream_id], span.first_step)
            if lost:
                self._failures += 1
            queued = [span for other in queue.jobs for span in other.spans]
            queue.busy = Counter(span.chunk for span in queued)
            queue.steps = sum(span.count for span in queued)
            if self._config.mode == "async":
                self._error = error
            self._changed.notify_all()

    def _thin_out(self) -> None:
        newest = max(self._manifests.values(), key=lambda m: m.ordinal, default=None)
        if newest is None:
            return
        wanted: dict[int, list[tuple[int, int]]] = {}
        for manifest in self._manifests.values():
            for stream, spans in manifest.live().items():
                wanted.setdefault(stream, []).extend(spans)

        def needed(record: Record) -> bool:
            first, end = record.header.first_step, record.end_step
            spans = wanted.get(record.header.stream_id, ())
            return record.sequence >= newest.sequence or any(low < end and first < high for low, high in spans)

        self._log.keep(needed)
        self._limit = self._log.nbytes + self._shard_bytes // 2
