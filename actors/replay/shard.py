"""One shard of the replay: deterministic, single-threaded, no transport.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.draw.mixture import Mixture, selector_bytes, selector_fractions
from actors.replay.draw.prioritized import check_priorities
from actors.replay.store.chunks import ChunkStore
from actors.replay.store.durable import open_folder
from actors.replay.store.journal import Journal
from actors.replay.store.manifest import AUTO, Manifest, check_name
from actors.replay.store.pending import PendingCheckpoint
from actors.replay.store.recovery import Content, Recovery
from actors.replay.store.schema import Schema
from learner.batch import SequenceBatch


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
        self._rng = np.random.default_rng(seed)
        self._store: ChunkStore | None = None
        self._selector: Mixture | None = None
        self._next_step: dict[int, int] = {}  # stream -> first step not yet inserted; outlives eviction
        self._inserted = self._duplicates = self._sampled = 0
        self._stale_updates = self._stale_writes = 0  # handles whose steps were evicted
        self._lost = self._evicted_before = 0
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

        Raises:
            ValueError: No stored stream is that long, or a size is not positive.
        """
        if batch_size < 1 or length < 1:
            raise ValueError(f"batch_size and length must be positive, got {batch_size} and {length}")
        if self._store is None or self._selector is None or not self._selector.num_items(length):
            raise ValueError(f"no sequence of {length} steps is stored; the shard holds {self.num_steps} steps")
        selection = self._selector.sample(self._rng, batch_size, length, totals, num_items)
        self._sampled += batch_size * length
        batch = self._gather(self._store, selection.chunk, selection.offset, length, out)
        np.power(selection.ratio, -self._config.selector.weight_exponent, out=batch.weight, casting="same_kind")
        return batch

    def update_priorities(self, handle: NDArray[np.int64], priority: NDArray[Any]) -> int:
        """Set the priorities of sampled sequences; those evicted meanwhile are counted and ignored.

        Args:
            handle: Handles [B, 3] of the sequences; of repeated ones the last counts.
            priority: New priorities [B], finite and not negative.

        Returns:
            Priorities applied: 0 if the selector has no prioritized component.

        Raises:
            ValueError: A priority is negative, not finite or too large; none was applied.
        """
        values = check_priorities(priority, len(handle))
        if self._selector is None or self._selector.prioritized is None:
            return 0
        valid = self.valid(handle)
        applied = int(np.count_nonzero(valid))
        if applied < len(handle):
            handle, values = handle[valid], values[valid]
            self._stale_updates += len(valid) - applied
        self._selector.prioritized.update((handle[:, 0], handle[:, 1]), values)
        return applied

    def write(self, handle: NDArray[np.int64], key: str, values: NDArray[Any], skip: int = 0) -> int:
        """Overwrite one key of sampled sequences; those evicted meanwhile are counted and ignored.

        Args:
            handle: Handles [B, 3] of the first steps.
            key: A key of the stored steps.
            values: New values [B, T, ...] of the steps from `skip` steps after those on.
            skip: Steps of the sequences that are left alone.

        Returns:
            Sequences written.

        Raises:
            ValueError: The key is not stored, or the values do not fit it; nothing was written.
        """
        if len(values) != len(handle):
            raise ValueError(f"expected values of {len(handle)} sequences, got an array of shape {values.shape}")
        valid = self.valid(handle)
        chunk, offset, _ = handle[valid].T
        if self._store is not None:
            if self._journal is not None and key not in self._store.rewritten:
                self._journal.settle()  # from now on the writer copies this key
            self._store.write(chunk, offset + skip, key, values[valid])
        self._stale_writes += len(handle) - len(chunk)
        return len(chunk)

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
        return 0 if self._store is None else int(self._store.starts(length).sum())

    def masses(self, length: int) -> NDArray[np.float64]:
        """Mass [K] of every component of the selector here; the first counts the valid starts."""
        return np.zeros_like(self.fractions) if self._selector is None else self._selector.masses(length)

    @property
    def fractions(self) -> NDArray[np.float64]:
        """Fraction [K] of every component of the selector."""
        return selector_fractions(self._config.selector)

    def stats(self) -> dict[str, float]:
        """Sizes now and counts since the beginning."""
        return {
            "steps": self.num_steps,
            "streams": len(self.streams()),
            "chunks": 0 if self._store is None else self._store.num_chunks,
            "bytes": self.nbytes,
            "max_bytes": self._config.shard_bytes,
            "inserted_steps": self._inserted,
            "duplicate_steps": self._duplicates,
            "evicted_steps": self._evicted_before + (0 if self._store is None else self._store.evicted_steps),
            "lost_steps": self._lost,
            "sampled_steps": self._sampled,
            "stale_updates": self._stale_updates,
            "stale_writes": self._stale_writes,
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
            reached[stream] = max(expected, block.first_step + block.num_steps)
            plan.append((block, min(max(0, expected - block.first_step), block.num_steps), gap))
        return plan

    def _store_block(self, block: Block, skip: int, gap: int) -> int:
        assert self._store is not None
        stored = block.num_steps - skip
        self._duplicates += skip
        if self._met is not None:
            self._met.add(block.stream_id)
        if stored:
            self._store.append(block.stream_id, block.first_step, block.policy_version, block.data, skip)
            self._next_step[block.stream_id] = block.first_step + block.num_steps
            self._inserted += stored + gap
            self._lost += gap
            if self._journal is not None:
                self._journal.stored(block.stream_id)
        return stored

    def _durable(self) -> Journal:
        if self._journal is None:
            raise ValueError("this replay shard has no directory to write to")
        return self._journal

    def _manifest(self, name: str) -> Manifest:
        """Everything but the steps themselves."""
        arrays: dict[str, NDArray[Any]] = {}
        spans = np.zeros((0, 3), np.uint64)
        if self._store is not None and self._selector is not None:
            store, table = self._store, self._store.table()
            end = table["start"] + table["length"]
            spans = np.stack([table["stream_id"], table["start"].astype(np.uint64), end.astype(np.uint64)], axis=1)
            arrays |= {f"table/{key}": array for key, array in table.items()}
            arrays |= {f"selector/{key}": array for key, array in self._selector.state_arrays().items()}
            if store.rewritten:
                rows = store.stored_rows()
                arrays |= {f"late/{key}": store.data[key].take(rows, axis=0) for key in sorted(store.rewritten)}
        books = {
            "schema": None if self._store is None else self._store.schema.as_lists(),
            "chunk_steps": self._config.chunk_steps,
            "next_step": [[stream, step] for stream, step in self._next_step.items()],
            "counters": {
                "inserted_steps": self._inserted,
                "duplicate_steps": self._duplicates,
                "sampled_steps": self._sampled,
                "lost_steps": self._lost,
                "evicted_before": self._evicted_before,
                "stale_updates": self._stale_updates,
                "stale_writes": self._stale_writes,
            },
            "rng": json.dumps(self._rng.bit_generator.state),
        }
        return Manifest(name, 0, 0, spans, books, arrays)

    def _take_over(self, content: Content) -> None:
        self._store, self._selector = content.store, content.selector
        self._next_step = content.next_step
        counters = content.counters
        self._inserted, self._sampled = counters.get("inserted_steps", 0), counters.get("sampled_steps", 0)
        self._duplicates, self._lost = counters.get("duplicate_steps", 0), counters.get("lost_steps", 0)
        self._evicted_before = counters.get("evicted_before", 0)
        self._stale_updates, self._stale_writes = counters.get("stale_updates", 0), counters.get("stale_writes", 0)
        if content.rng is not None:
            self._rng.bit_generator.state = content.rng

    def _store_of(self, block: Block) -> ChunkStore:
        """The store, made for the first block and fit for this one."""
        if self._store is None:
            return self._bind(Schema.of(block.data))
        if not self._store.schema.matches(block.data):
            self._store.schema.check(Schema.of(block.data))
        return self._store

    def _bind(self, schema: Schema) -> ChunkStore:
        self._store, self._selector = self._make_store(schema)
        if self._journal is not None:
            self._journal.bind(self._store, {})
        return self._store

    def _make_store(self, schema: Schema) -> tuple[ChunkStore, Mixture]:
        config = self._config
        overhead = selector_bytes(config.selector)
        store = ChunkStore(schema, config.shard_bytes, config.chunk_steps, selector_bytes=overhead)
        return store, Mixture(store, config.selector)

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
