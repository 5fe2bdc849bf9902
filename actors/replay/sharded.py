"""Several shards behind the interface of one.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.config import TRAIN, ReplayConfig
from actors.replay.draw.mixture import effective_fractions
from actors.replay.draw.prioritized import check_priorities
from actors.replay.draw.views import ViewGenerators
from actors.replay.flow.routing import route, route_many
from actors.replay.shard import ReplayShard
from actors.replay.store.layout import Layout, open_layout
from actors.replay.store.manifest import Manifest, list_manifests, manifest_path, write_manifest
from actors.replay.store.pending import CheckpointInfo
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch

logger = logging.getLogger(__name__)


def shard_probabilities(masses: NDArray[np.float64], fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability [n] of each shard; see `actors.replay.draw.mixture`.

    Args:
        masses: Mass [n, K] of every component in every shard.
        fractions: Fraction [K] of every component.

    Raises:
        ValueError: No shard has any mass.
    """
    totals = masses.sum(axis=0)
    shares = np.array(effective_fractions(totals.tolist(), fractions.tolist()))
    if not shares.any():
        raise ValueError(f"none of the {len(masses)} shards holds a sequence of the asked length")
    return np.asarray((masses * np.divide(shares, totals, out=np.zeros_like(shares), where=totals > 0)).sum(axis=1))


def draw_shard(rng: np.random.Generator, masses: NDArray[np.float64], fractions: NDArray[np.float64]) -> int:
    """A shard drawn by its masses; see `shard_probabilities`."""
    ends = np.cumsum(shard_probabilities(masses, fractions))
    return int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))


def normalise_weights(batch: SequenceBatch) -> SequenceBatch:
    """The batch, its importance weights divided by their maximum in place."""
    np.divide(batch.weight, batch.weight.max(), out=batch.weight)
    return batch


def slice_batch(batch: SequenceBatch, begin: int, end: int) -> SequenceBatch:
    """Views of the sequences `begin` .. `end - 1`."""
    return batch.map_rows(lambda rows: rows[begin:end])


class ShardedReplay:
    """Routes streams to shards and samples as if all their sequences lay in one.

    By default each batch comes from one shard, drawn in proportion to its mass, as through the object
    store; `mixed` draws the shard of every sequence anew.

    Args:
        shards: The shards, local here.
        seed: Seed of the choice of shards.
        mixed: Whether one batch mixes shards.
        layout: Folder of the shards, None if they are in memory only.
    """

    def __init__(
        self, shards: Sequence[ReplayShard], seed: int, mixed: bool = False, layout: Layout | None = None
    ) -> None:
        if not shards:
            raise ValueError("a replay needs at least one shard")
        self.shards = list(shards)
        self._rngs = ViewGenerators(seed, self.shards[0].views)
        self._mixed = mixed
        self._layout = layout

    @classmethod
    def from_config(
        cls,
        config: ReplayConfig,
        seed: int,
        directory: Path | None = None,
        restore: str | None = None,
        tail: bool = True,
        imported: tuple[Path, ...] = (),
    ) -> ShardedReplay:
        """Local shards with seeds derived from `seed`.

        Args:
            config: Size, sampling and durability.
            seed: Seed of all sampling.
            directory: Folder to recover from and to write to, perhaps written with another number of shards.
            restore: Name of the checkpoint to start from, None for the newest.
            tail: Whether blocks logged after it are recovered; see `ReplayShard`.
            imported: Shard folders of another replay, all of which a folder without a replay starts with.

        Raises:
            ValueError: A folder is in use, or the checkpoint is missing or damaged.
        """
        seeds = np.random.SeedSequence(seed).generate_state(config.num_shards + 1, np.uint64)
        if directory is None:
            return cls([ReplayShard(config, int(s)) for s in seeds[1:]], int(seeds[0]), config.mixed_batches)
        layout = open_layout(directory, config, imported)
        manifest = _manifest_to_restore(layout, restore, tail)
        if restore is None and not tail and manifest is not None:
            restore = manifest.name
        shards = [
            ReplayShard(
                config, int(s), layout.shard_folder(k), restore=restore, tail=tail, sources=layout.sources, index=k
            )
            for k, s in enumerate(seeds[1:])
        ]
        replay = cls(shards, int(seeds[0]), config.mixed_batches, layout)
        if manifest is not None:
            replay._rngs.load_books(manifest.books)
        return replay

    def insert(self, block: Block) -> int:
        """Store a block in its stream's shard; see `ReplayShard.insert`."""
        return self.shards[route(block.stream_id, len(self.shards))].insert(block)

    def sample(
        self, batch_size: int, length: int, out: SequenceBatch | None = None, view: str = TRAIN
    ) -> SequenceBatch:
        """Draw `batch_size` sequences of `length` steps; the largest importance weight is 1.

        Args:
            batch_size: Sequences, B.
            length: Steps of each, T.
            out: Arrays to fill and return, new ones by default.
            view: Who draws.

        Raises:
            ValueError: No stored stream is that long, a size is not positive, or there is no such view.
        """
        if len(self.shards) == 1:
            return normalise_weights(self.shards[0].sample(batch_size, length, out=out, view=view))
        masses = np.array([shard.masses(length, view) for shard in self.shards])
        totals, fractions = masses.sum(axis=0), self.shards[0].fractions(view)
        if not self._mixed or batch_size < 1:
            shard = self.shards[draw_shard(self._rngs[view], masses, fractions)]
            return normalise_weights(shard.sample(batch_size, length, totals, out=out, view=view))
        probabilities = shard_probabilities(masses, fractions)
        counts = self._rngs[view].multinomial(batch_size, probabilities / probabilities.sum())
        batch = self._empty_batch(batch_size, length) if out is None else out
        ends = np.cumsum(counts)
        for shard, begin, end in zip(self.shards, ends - counts, ends, strict=True):
            if end > begin:
                shard.sample(int(end - begin), length, totals, out=slice_batch(batch, begin, end), view=view)
        return normalise_weights(batch)

    def write(
        self,
        stream_id: NDArray[np.uint64],
        handle: NDArray[np.int64],
        values: Mapping[str, NDArray[Any]] | None = None,
        priority: NDArray[Any] | None = None,
        version: int | None = None,
        length: int | None = None,
    ) -> int:
        """Write back what was computed for sequences of streams [B], to each shard all of its part or nothing.

        See `ReplayShard.write`.
        """
        values = values or {}
        if len(self.shards) == 1:
            return self.shards[0].write(handle, values, priority, version, length)
        levels = None if priority is None else check_priorities(priority, len(handle))  # before any shard changes
        return sum(
            shard.write(
                handle[rows],
                {key: new[rows] for key, new in values.items()},
                None if levels is None else levels[rows],
                version,
                length,
            )
            for shard, rows in self._by_shard(stream_id)
        )

    def write_back(self, batch: SequenceBatch, result: UpdateResult) -> None:
        """Store the priorities and write-backs that an update made for a batch; a `learner.learner.ResultSink`.

        Raises:
            ValueError: A priority or a write-back cannot be stored.
        """
        if result.priorities is not None or result.writebacks:
            length = batch.shape[1]
            self.write(batch.stream_id, batch.handle, result.writebacks, result.priorities, result.version, length)

    def read(self, stream_id: int, first_step: int, length: int) -> SequenceBatch:
        """The `length` steps of a stream from `first_step` on; see `ReplayShard.read`."""
        return self.shards[route(stream_id, len(self.shards))].read(stream_id, first_step, length)

    def streams(self) -> dict[int, tuple[int, int]]:
        """(first stored step, end) of every stored stream."""
        return {stream: span for shard in self.shards for stream, span in shard.streams().items()}

    @property
    def num_steps(self) -> int:
        """Steps stored."""
        return sum(shard.num_steps for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of the chunks in use."""
        return sum(shard.nbytes for shard in self.shards)

    def num_items(self, length: int) -> int:
        """Valid starts of sequences of `length` steps."""
        return sum(shard.num_items(length) for shard in self.shards)

    def masses(self, length: int, view: str = TRAIN) -> NDArray[np.float64]:
        """Sum [K] of the shards' masses for a view."""
        return np.asarray(np.sum([shard.masses(length, view) for shard in self.shards], axis=0))

    def stats(self) -> dict[str, float]:
        """The shards' statistics summed."""
        stats = [shard.stats() for shard in self.shards]
        return {name: sum(s[name] for s in stats) for name in stats[0]}

    def checkpoint(self, name: str) -> CheckpointInfo:
        """Write a checkpoint of all shards and of the choice of shards, and wait for it.

        Raises:
            ValueError: The replay has no directory, or the name cannot be part of a file name.
            OSError: It could not be written; earlier ones are as they were.
        """
        layout = self._durable()
        books = self._rngs.state_books()
        pending = [shard.checkpoint(name) for shard in self.shards]
        infos = [p.wait() for p in pending]
        older, _ = list_manifests(layout.path)
        ordinal = max((manifest.ordinal for manifest in older), default=-1) + 1
        write_manifest(layout.path, Manifest(name, ordinal, 0, np.zeros((0, 3), np.uint64), books, {}))
        num_bytes, num_steps = sum(info.num_bytes for info in infos), sum(info.num_steps for info in infos)
        return CheckpointInfo(name, num_bytes, num_steps, max(info.seconds for info in infos))

    def retain(self, names: Sequence[str]) -> None:
        """Remove the checkpoints not named, but for the newest, and what only they needed.

        Raises:
            ValueError: The replay has no directory.
            OSError: The disk fails; nothing that is needed is lost.
        """
        layout = self._durable()
        for shard in self.shards:
            shard.retain(names)
        whole, _ = list_manifests(layout.path)
        for manifest in whole[:-1]:
            if manifest.name not in names:
                manifest_path(layout.path, manifest.name).unlink()
        if whole:
            layout.drop_older()

    def close(self) -> None:
        """Write what is scheduled and give the directory free; without one, do nothing."""
        for shard in self.shards:
            shard.close()

    def next_steps(self) -> dict[int, int]:
        """Stream -> first step not yet inserted, of every stream ever inserted."""
        return {stream: step for shard in self.shards for stream, step in shard.next_steps().items()}

    def _durable(self) -> Layout:
        if self._layout is None:
            raise ValueError("this replay has no directory to write to")
        return self._layout

    def _empty_batch(self, batch_size: int, length: int) -> SequenceBatch:
        return next(batch for shard in self.shards if (batch := shard.empty_batch(batch_size, length)) is not None)

    def _by_shard(self, stream_id: NDArray[np.uint64]) -> Iterator[tuple[ReplayShard, NDArray[np.int64]]]:
        """Each shard that holds some of the streams [B], and their places."""
        if len(self.shards) == 1:
            yield self.shards[0], np.arange(len(stream_id))
            return
        index = route_many(stream_id, len(self.shards))
        for k in np.unique(index).tolist():
            yield self.shards[k], np.flatnonzero(index == k)


def _manifest_to_restore(layout: Layout, restore: str | None, tail: bool) -> Manifest | None:
    """The manifest of the choice of shards: the one named or else the newest.

    Raises:
        ValueError: Without a tail the replay goes on exactly, and what it needs for that is missing or damaged.
    """
    manifests, damage = list_manifests(layout.path)
    named = [manifest for manifest in manifests if manifest.name == restore]
    for damaged in damage:
        logger.warning("replay: %s", damaged)
    if restore is not None and not tail and not named and not layout.sources:
        raise ValueError(f"{manifest_path(layout.path, restore)} is {'damaged' if damage else 'missing'}")
    return next(reversed(named or manifests), None)
