"""One shard of the replay: deterministic, single-threaded, no transport.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.config import TRAIN, ReplayConfig
from actors.replay.draw.kinds import selector_bytes
from actors.replay.draw.mixture import selector_fractions
from actors.replay.draw.prioritized import check_priorities
from actors.replay.draw.views import ViewGenerators, Views
from actors.replay.store.chunks import ChunkStore
from actors.replay.store.durable import open_folder
from actors.replay.store.journal import Journal
from actors.replay.store.manifest import AUTO, Manifest, check_name
from actors.replay.store.pending import PendingCheckpoint
from actors.replay.store.recovery import Content, Recovery
from actors.replay.store.schema import Schema
from learner.batch import SequenceBatch

COUNTERS = (
    "inserted_steps",
    "duplicate_steps",
    "sampled_steps",
    "lost_steps",
    "stale_updates",  # priorities of sequences that were evicted
    "stale_writes",  # keys of such sequences
    "superseded_writes",  # keys of sequences of which some step has a newer value
)
"""What a shard counts from its beginning on, through all resumptions."""


class ReplayShard:
    """Keeps the newest steps of its streams and samples sequences of them.

    The first block fixes the schema. A sequence may start at any stored step, cross chunks and cross
    the ends of episodes, but never leaves its stream.

    With a directory the shard first recovers what is there, then keeps it up to date under
    `config.durability`, and can write checkpoints. One process at a time may have a directory.

    Args:
        config: Size, sampling and durability; the shard's byte bound is `config.shard_bytes`.
        seed: Seed of the sampling.
        directory: Folder of the log and the checkpoints, None to keep everything in memory only.
        restore: Name of the checkpoint to start from, None for the newest.
        tail: Whether blocks logged after the checkpoint are recovered, by the newest checkpoint if that is a later
            one; False removes them and goes on exactly as after the checkpoint named.
        sources: Folders of the shards of a replay with another number of them, to import from while the
            directory holds nothing.
        index: Place of the shard among its sisters; says which streams of the sources belong here.

    Raises:
        ValueError: Another process has the directory, the checkpoint is missing or damaged, or a file has
            another format version.
    """

    def __init__(
        self,
        config: ReplayConfig,
        seed: int,
        directory: Path | None = None,
        *,
        restore: str | None = None,
        tail: bool = True,
        sources: Sequence[Path] = (),
        index: int = 0,
    ) -> None:
        self._config = config
        self._selectors = config.selectors
        self._rngs = ViewGenerators(seed, self._selectors)
        self._fractions = {name: selector_fractions(selector) for name, selector in self._selectors.items()}
        self._store: ChunkStore | None = None
        self._views: Views | None = None
        self._next_step: dict[int, int] = {}  # stream -> first step not yet inserted; outlives eviction
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._evicted_before = 0  # by stores before this one
        self._journal: Journal | None = None
        self._met: set[int] | None = None  # streams that went on after a lossy recovery; None: none was
        self.recovery = Recovery()
        if directory is not None:
            opened = open_folder(directory, config, self._make_store, restore, tail, sources, index)
            self._take_over(opened.content)
            self._journal, self.recovery = opened.journal, opened.recovery
            self._met = set() if opened.lossy else None
            if self._store is not None:
                self._journal.bind(self._store, opened.logged)
            if self.recovery.imported_shards:
                self._journal.checkpoint(self._manifest(AUTO)).wait()

    def insert(self, block: Block) -> int:
        """Store a block exactly once.

        A block (or its leading part) that was already inserted is acknowledged and not stored again, so
        a sender may repeat a call whose answer it lost. The arrays are copied.

        Returns:
            Steps stored, 0 for a repeated block.

        Raises:
            ValueError: Steps of the stream are missing before the block, or the block does not fit the schema.
                After a recovery that may have lost steps, the first block of a stream may leave a gap: it is
                counted as lost.
            OSError: The log cannot be written; the block is not stored.
        """
        return self.insert_many([block])

    def insert_many(self, blocks: Sequence[Block]) -> int:
        """Store blocks one after the other as `insert` does, all of them or none; they share one write to disk.

        Returns:
            Steps stored.

        Raises:
            ValueError: A block does not fit, as in `insert`.
            OSError: The log cannot be written.
        """
        plan = self._plan(blocks)
        new = [(block, skip) for block, skip, _ in plan if skip < block.num_steps]
        if new and self._journal is not None:
            if self._journal.crowded():
                self._journal.checkpoint(self._manifest(AUTO), thin_out=True)
            self._journal.admit(new)
        return sum(self._store_block(block, skip, gap) for block, skip, gap in plan)

    def sample(
        self,
        batch_size: int,
        length: int,
        totals: NDArray[np.float64] | None = None,
        num_items: float | None = None,
        out: SequenceBatch | None = None,
        view: str = TRAIN,
    ) -> SequenceBatch:
        """Draw `batch_size` sequences of `length` steps.

        The importance weights are (num_items * probability)^-beta (Schaul et al. 2016, section 3.4) with the
        probability of a sequence in the whole replay; they are not yet divided by their maximum.

        Args:
            batch_size: Sequences, B.
            length: Steps of each, T.
            totals: Masses [K] over all shards as last known, None if this shard is alone.
            num_items: Valid starts over all shards, None for what `totals` says.
            out: Arrays to fill and return, new ones by default.
            view: Who draws; queues and generators of other views stay as they are.

        Raises:
            ValueError: No stored stream is that long, a size is not positive, or there is no such view.
        """
        self._check_view(view)
        if batch_size < 1 or length < 1:
            raise ValueError(f"batch_size and length must be positive, got {batch_size} and {length}")
        if self._store is None or self._views is None or not self._views[view].num_items(length):
            raise ValueError(f"no sequence of {length} steps is stored; the shard holds {self.num_steps} steps")
        mixture = self._views[view]
        selection = mixture.sample(self._rngs[view], batch_size, length, totals, num_items)
        self._counts["sampled_steps"] += batch_size * length
        batch = self._gather(self._store, selection.chunk, selection.offset, length, out)
        np.power(selection.ratio, -mixture.weight_exponent, out=batch.weight, casting="same_kind")
        return batch

    def write(
        self,
        handle: NDArray[np.int64],
        values: Mapping[str, NDArray[Any]] | None = None,
        priority: NDArray[Any] | None = None,
        version: int | None = None,
        length: int | None = None,
    ) -> int:
        """Write back what was computed for sampled sequences, all of it or, if something does not fit, nothing.

        Sequences that were evicted meanwhile are counted and ignored; of repeated or overlapping ones the last counts.

        Args:
            handle: Handles [B, 3] of the sequences.
            values: key -> new values [B, T, ...] of the sequences' last T steps.
            priority: New priorities [B], finite and not negative, for every view that takes priorities.
            version: Of the weights that the values were made with: where a stored value is of newer ones, that step
                is left alone and counted. None overwrites whatever is there. Priorities have no version.
            length: Steps of the sequences, None for those of the values.

        Returns:
            Sequences that are still stored.

        Raises:
            ValueError: A key is not stored, values do not fit it, a priority is negative, not finite or too large, or
                the version is out of range.
        """
        values = values or {}
        for key, new in values.items():
            if len(new) != len(handle):
                raise ValueError(f"expected values of {len(handle)} sequences, got {key!r} of shape {new.shape}")
        levels = None if priority is None else check_priorities(priority, len(handle))
        if self._store is None or self._views is None:
            self._count_stale(len(handle), values, priority)
            return 0
        rewrites, valid = self._store.rewrites, self._store.valid(handle)
        if levels is not None:
            self._views.check_priorities(levels)
        if values:
            chunk, offset, _ = handle[valid].T
            rewrites.check(chunk, offset, values, length, version)
            if version is not None:
                rewrites.reserve(values)
                valid = self._store.valid(handle)
            if self._journal is not None and not values.keys() <= rewrites.keys:
                self._journal.settle()  # from now on the writer copies these keys
        stored = int(np.count_nonzero(valid))
        if stored < len(handle):
            self._count_stale(len(handle) - stored, values, priority)
            handle, values = handle[valid], {key: new[valid] for key, new in values.items()}
            levels = None if levels is None else levels[valid]
        chunk, offset, _ = handle.T
        if values:
            self._counts["superseded_writes"] += rewrites.write(chunk, offset, values, length, version)
        if levels is not None:
            self._views.update((chunk, offset), levels)
        return stored

    def empty_batch(self, batch_size: int, length: int) -> SequenceBatch | None:
        """Uninitialised arrays for a batch of this replay, None before the first block."""
        return None if self._store is None else self._store.empty_batch(batch_size, length)

    def read(self, stream_id: int, first_step: int, length: int) -> SequenceBatch:
        """The `length` steps of a stream from `first_step` on, as a batch of one.

        Raises:
            ValueError: Some of them are not stored.
        """
        if self._store is None:
            raise ValueError(f"stream {stream_id} is not stored: the shard is empty")
        chunk, offset = self._store.locate(stream_id, first_step)
        self._store.locate(stream_id, first_step + length - 1)
        return self._gather(self._store, np.array([chunk]), np.array([offset]), length)

    def streams(self) -> dict[int, tuple[int, int]]:
        """(first stored step, end) of every stored stream."""
        return {} if self._store is None else self._store.streams()

    def spans(self) -> list[tuple[int, int, int]]:
        """(stream, first stored step, end) of all that is stored; a stream that lost steps has several."""
        return [] if self._store is None else self._store.spans()

    def valid(self, handle: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which handles [B, 3] still name stored steps."""
        return np.zeros(len(handle), np.bool_) if self._store is None else self._store.valid(handle)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views."""
        return tuple(self._selectors)

    @property
    def schema(self) -> Schema | None:
        """Columns of a step, None before the first block."""
        return None if self._store is None else self._store.schema

    @property
    def num_steps(self) -> int:
        """Steps stored."""
        return 0 if self._store is None else self._store.num_steps

    @property
    def nbytes(self) -> int:
        """Bytes of the chunks in use."""
        return 0 if self._store is None else self._store.nbytes

    def num_items(self, length: int) -> int:
        """Valid starts of sequences of `length` steps."""
        return 0 if self._views is None else self._views[TRAIN].num_items(length)

    def masses(self, length: int, view: str = TRAIN) -> NDArray[np.float64]:
        """Mass [K] of every component of a view here; the first counts the valid starts."""
        self._check_view(view)
        return np.zeros_like(self._fractions[view]) if self._views is None else self._views[view].masses(length)

    def fractions(self, view: str = TRAIN) -> NDArray[np.float64]:
        """Fraction [K] of every component of a view."""
        self._check_view(view)
        return self._fractions[view]

    def stats(self) -> dict[str, float]:
        """Sizes now and counts since the beginning."""
        return {
            "steps": self.num_steps,
            "streams": len(self.streams()),
            "chunks": 0 if self._store is None else self._store.num_chunks,
            "bytes": self.nbytes,
            "max_bytes": self._config.shard_bytes,
            **self._counts,
            "evicted_steps": self._evicted_before + (0 if self._store is None else self._store.evicted_steps),
            "log_bytes": 0 if self._journal is None else self._journal.log_bytes,
            "unlogged_steps": 0 if self._journal is None else self._journal.unlogged_steps,
        }

    def next_steps(self) -> dict[int, int]:
        """Stream -> first step not yet inserted, of every stream ever inserted."""
        return dict(self._next_step)

    def checkpoint(self, name: str) -> PendingCheckpoint:
        """Begin a checkpoint of the present state and write it in the background while the shard is used.

        Args:
            name: What to restore it by; an earlier checkpoint of the name is replaced.

        Raises:
            ValueError: The shard has no directory, or the name cannot be part of a file name.
        """
        return self._durable().checkpoint(self._manifest(check_name(name)))

    def retain(self, names: Sequence[str]) -> None:
        """Remove the checkpoints not named, but for the newest, and what only they needed from the log.

        Raises:
            ValueError: The shard has no directory.
            OSError: The disk fails; nothing that is needed is lost.
        """
        self._durable().retain(names)

    def close(self) -> None:
        """Write what is scheduled and give the directory free; without one, do nothing."""
        if self._journal is not None:
            self._journal.close()

    def _plan(self, blocks: Sequence[Block]) -> list[tuple[Block, int, int]]:
        """Each block with its leading steps that are known already and those that are missing before it."""
        plan, reached = [], dict[int, int]()
        for block in blocks:
            stream = block.stream_id
            expected = reached.get(stream, self._next_step.get(stream, 0))
            gap = max(0, block.first_step - expected)
            if gap and (self._met is None or stream in self._met or stream in reached):
                raise ValueError(
                    f"block of stream {stream} starts at step {block.first_step}, "
                    f"but step {expected} is the next one: {gap} steps are missing"
                )
            self._store_of(block)
            self._check_priority(block)
            reached[stream] = max(expected, block.first_step + block.num_steps)
            plan.append((block, min(max(0, expected - block.first_step), block.num_steps), gap))
        return plan

    def _store_block(self, block: Block, skip: int, gap: int) -> int:
        assert self._store is not None
        stored = block.num_steps - skip
        self._counts["duplicate_steps"] += skip
        if self._met is not None:
            self._met.add(block.stream_id)
        if stored:
            steps = (block.stream_id, block.first_step, block.policy_version, block.data)
            self._store.append(*steps, skip, block.priority)
            self._next_step[block.stream_id] = block.first_step + block.num_steps
            self._counts["inserted_steps"] += stored + gap
            self._counts["lost_steps"] += gap
            if self._journal is not None:
                self._journal.stored(block.stream_id)
        return stored

    def _check_priority(self, block: Block) -> None:
        if block.priority is not None:
            levels = check_priorities(block.priority, block.num_steps)
            if self._views is not None:
                self._views.check_priorities(levels)

    def _check_view(self, view: str) -> None:
        if view not in self._selectors:
            raise ValueError(f"the replay has no view {view!r}; it has {', '.join(self._selectors)}")

    def _count_stale(self, number: int, values: Mapping[str, Any], priority: Any) -> None:
        self._counts["stale_updates"] += number * (priority is not None)
        self._counts["stale_writes"] += number * len(values)

    def _durable(self) -> Journal:
        if self._journal is None:
            raise ValueError("this replay shard has no directory to write to")
        return self._journal

    def _manifest(self, name: str) -> Manifest:
        """Everything but the steps themselves."""
        arrays: dict[str, NDArray[Any]] = {}
        spans = np.zeros((0, 3), np.uint64)
        if self._store is not None and self._views is not None:
            table = self._store.table()
            end = table["start"] + table["length"]
            spans = np.stack([table["stream_id"], table["start"].astype(np.uint64), end.astype(np.uint64)], axis=1)
            arrays |= {f"table/{key}": array for key, array in table.items()}
            arrays |= self._views.state_arrays() | self._store.rewrites.state_arrays()
        books = {
            "schema": None if self._store is None else self._store.schema.as_lists(),
            "chunk_steps": self._config.chunk_steps,
            "next_step": [[stream, step] for stream, step in self._next_step.items()],
            "counters": {**self._counts, "evicted_before": self._evicted_before},
            **self._rngs.state_books(),
        }
        return Manifest(name, 0, 0, spans, books, arrays)

    def _take_over(self, content: Content) -> None:
        self._store, self._views = content.store, content.views
        self._next_step = content.next_step
        for name in COUNTERS:
            self._counts[name] = content.counters.get(name, 0)
        self._evicted_before = content.counters.get("evicted_before", 0)
        if content.rngs is not None:
            self._rngs.load_books(content.rngs)

    def _store_of(self, block: Block) -> ChunkStore:
        """The store, made for the first block and fit for this one."""
        if self._store is None:
            return self._bind(Schema.of(block.data))
        if not self._store.schema.matches(block.data):
            self._store.schema.check(Schema.of(block.data))
        return self._store

    def _bind(self, schema: Schema) -> ChunkStore:
        self._store, self._views = self._make_store(schema)
        if self._journal is not None:
            self._journal.bind(self._store, {})
        return self._store

    def _make_store(self, schema: Schema) -> tuple[ChunkStore, Views]:
        config, overhead = self._config, sum(map(selector_bytes, self._selectors.values()))
        store = ChunkStore(schema, config.shard_bytes, config.chunk_steps, overhead, config.takes_priorities)
        return store, Views(store, self._selectors)

    @staticmethod
    def _gather(
        store: ChunkStore,
        chunk: NDArray[np.int64],
        offset: NDArray[np.int64],
        length: int,
        out: SequenceBatch | None = None,
    ) -> SequenceBatch:
        batch = store.empty_batch(len(chunk), length) if out is None else out
        if batch.shape != (len(chunk), length):
            raise ValueError(f"out holds {batch.shape} sequences and steps, asked for are {(len(chunk), length)}")
        store.gather(chunk, offset, length, batch.data)
        batch.stream_id[:] = store.stream_id[chunk]
        batch.first_step[:] = store.start[chunk] + offset
        batch.policy_version[:] = store.version[chunk * store.chunk_steps + offset]
        batch.weight[:] = 1.0
        batch.handle[:, 0] = chunk
        batch.handle[:, 1] = offset
        batch.handle[:, 2] = store.generation[chunk]
        return batch
