"""What a shard finds on disk when it starts.

With a manifest of a shard of the same size the chunk table is taken over as it was and its rows are filled
from the log: the shard goes on exactly, to the next sample. With other sizes, other shards (elastic resume)
or damage, the same steps are stored anew in their order of writing. Behind the manifest the log's tail
follows. A stream that misses steps goes on behind the hole; what is missing is counted.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.draw.views import Views
from actors.replay.store.chunks import ChunkStore
from actors.replay.store.manifest import (
    Manifest,
    ManifestError,
    damage_of,
    list_manifests,
    manifest_path,
    read_manifest,
)
from actors.replay.store.record import RecordError, Steps
from actors.replay.store.scan import Damage, LogReader, Record
from actors.replay.store.schema import Schema


@dataclass(frozen=True)
class Recovery:
    """What a shard's recovery did."""

    manifest: str | None = None  # it started from
    exact: bool = False  # the manifest's shard goes on exactly
    checkpoint_steps: int = 0  # stored from the manifest
    tail_steps: int = 0  # stored from the log behind it
    tail_blocks: int = 0  # records these came in
    lost_steps: int = 0  # acknowledged once and not found
    torn_bytes: int = 0  # cut off the end of the log
    damage: tuple[Damage, ...] = ()  # unreadable places, by file and offset
    imported_shards: int = 0  # of another number of shards that were read
    seconds: float = 0.0


@dataclass
class Content:
    """The state of a shard while it is put together."""

    store: ChunkStore | None = None
    views: Views | None = None
    next_step: dict[int, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    rngs: Mapping[str, Any] | None = None  # books with the states of the views' generators
    checkpoint_steps: int = 0
    tail_steps: int = 0
    tail_blocks: int = 0
    lost_steps: int = 0

    def count(self, name: str, number: int) -> None:
        """Add to a counter."""
        self.counters[name] = self.counters.get(name, 0) + number


MakeStore = Callable[[Schema], tuple[ChunkStore, Views]]


@dataclass(frozen=True)
class Source:
    """A folder to recover from."""

    reader: LogReader
    manifest: Manifest | None  # with its arrays
    damage: list[Damage]  # manifests that could not be read
    manifests: list[Manifest]  # all readable ones, without arrays


def open_source(directory: Path, restore: str | None, tail: bool) -> Source:
    """Scan a folder and choose the manifest to start from.

    Args:
        directory: A shard's folder.
        restore: Name of the manifest. With the tail, the newest one serves whatever its name, as it holds more.
        tail: Whether the log behind the manifest counts.

    Raises:
        ValueError: The named manifest is missing or damaged and no other serves, or a file has another format
            version.
    """
    manifests, damage = list_manifests(directory)
    names = [manifest.name for manifest in manifests]
    if restore is not None and restore not in names and not (tail and (manifests or damage)):
        broken = "".join(f"; {d}" for d in damage)
        raise ValueError(f"{directory} holds no whole checkpoint {restore!r}; it holds {names}{broken}")
    candidates = manifests if tail or restore is None else [manifests[names.index(restore)]]
    for candidate in reversed(candidates):
        path = manifest_path(directory, candidate.name)
        try:
            manifest = read_manifest(path)
        except ManifestError as error:
            if not tail:
                raise ValueError(f"{path} is damaged: {error}") from error
            damage.append(damage_of(path, error))
            manifests.remove(candidate)
            continue
        return Source(LogReader(directory), manifest, damage, manifests)
    return Source(LogReader(directory), None, damage, manifests)


def recover(source: Source, make_store: MakeStore, chunk_steps: int, tail: bool) -> tuple[Content, Recovery]:
    """The content of a shard from its own folder.

    Args:
        source: The folder.
        make_store: Makes an empty store and its views.
        chunk_steps: The shard's own; where it or the capacity differs, steps are stored anew.
        tail: Whether the log behind the manifest is replayed.
    """
    begin = time.monotonic()
    content, manifest, reader = Content(), source.manifest, source.reader
    exact = manifest is not None and _take_over(manifest, reader, make_store, chunk_steps, content)
    records = [(reader, manifest, record) for record in reader.records]
    if exact:
        assert manifest is not None
        records = [entry for entry in records if entry[2].sequence >= manifest.sequence]
        _store_records(records, make_store, content, tail, live={})
    else:
        if manifest is not None:
            _take_over_books(manifest, content)
            _carry_on_evictions(manifest, content)
            content.rngs = manifest.books
        _store_anew(records, [source], make_store, content, tail, lambda stream: True)
    reader.close()
    return content, Recovery(
        None if manifest is None else manifest.name,
        exact,
        content.checkpoint_steps,
        content.tail_steps,
        content.tail_blocks,
        content.lost_steps,
        sum(segment.torn_bytes for segment in reader.segments),
        (*source.damage, *reader.damage),
        0,
        time.monotonic() - begin,
    )


def import_shards(
    directories: Sequence[Path],
    make_store: MakeStore,
    mine: Callable[[int], bool],
    first: bool,
    restore: str | None,
    tail: bool,
) -> tuple[Content, Recovery]:
    """The content of one shard from the folders of another number of shards; nothing in them changes.

    Steps are stored in their order of writing, the folders' records interleaved. Priorities and late-written
    keys come along; queues begin anew.

    Args:
        directories: Folders of all the old shards.
        make_store: Makes an empty store and its views.
        mine: Whether a stream belongs here.
        first: Whether this is the shard that carries on the counts of the steps that are gone.
        restore: Name of the manifests to start from.
        tail: Whether the logs behind them count.
    """
    begin = time.monotonic()
    sources = [open_source(directory, restore, tail) for directory in directories]
    content = Content()
    for source in sources:
        if source.manifest is not None:
            _take_over_books(source.manifest, content, counters=first)
            if first:
                _carry_on_evictions(source.manifest, content)
    content.next_step = {stream: step for stream, step in content.next_step.items() if mine(stream)}
    ranked = [_ranked(source) for source in sources]
    records = [
        entry for _, _, entry in heapq.merge(*ranked, key=lambda item: item[:2]) if mine(entry[2].header.stream_id)
    ]
    owned = _store_anew(records, sources, make_store, content, tail, mine)
    if first:  # the other shards count their part of what was stored themselves
        content.count("inserted_steps", -sum(s.manifest.num_steps for s in sources if s.manifest is not None))
    content.count("inserted_steps", owned)
    for source in sources:
        source.reader.close()
    return content, Recovery(
        next((s.manifest.name for s in sources if s.manifest is not None), None),
        False,
        content.checkpoint_steps,
        content.tail_steps,
        content.tail_blocks,
        content.lost_steps,
        sum(segment.torn_bytes for source in sources for segment in source.reader.segments),
        tuple(damage for source in sources for damage in (*source.damage, *source.reader.damage)),
        len(sources),
        time.monotonic() - begin,
    )


_Entry = tuple[LogReader, Manifest | None, Record]


def _ranked(source: Source) -> Iterator[tuple[float, int, _Entry]]:
    """The records of a folder with their relative age, so that folders can be merged."""
    records = list(source.reader.records)
    for rank, record in enumerate(records):
        yield rank / len(records), id(source), (source.reader, source.manifest, record)


def _take_over_books(manifest: Manifest, content: Content, counters: bool = True) -> None:
    for stream, step in manifest.books["next_step"]:
        content.next_step[stream] = max(step, content.next_step.get(stream, 0))
    if counters:
        for name, value in manifest.books["counters"].items():
            content.count(name, value)


def _carry_on_evictions(manifest: Manifest, content: Content) -> None:
    """A store that begins anew has no memory of what the old one evicted."""
    content.count("evicted_before", int(manifest.arrays.get("table/evicted_steps", 0)))


def _take_over(
    manifest: Manifest, reader: LogReader, make_store: MakeStore, chunk_steps: int, content: Content
) -> bool:
    """Restore the shard of a manifest exactly; False, and nothing done, if that cannot be."""
    books = manifest.books
    if books["chunk_steps"] != chunk_steps:
        return False
    if books["schema"] is not None:
        store, views = make_store(Schema.from_lists(books["schema"]))
        table = _part(manifest, "table/")
        if len(table["generation"]) != store.capacity:
            return False
        store.load_table(table)
        if not _fill(store, manifest, reader):
            return False
        versions = _part(manifest, "late_version/")
        store.rewrites.reserve(versions)
        store.rewrites.load_arrays(_part(manifest, "late/"), versions, store.stored_rows(), slice(None))
        views.load_arrays(manifest.arrays)
        content.store, content.views = store, views
    _take_over_books(manifest, content)
    content.rngs = manifest.books
    content.checkpoint_steps = manifest.num_steps
    return True


def _fill(store: ChunkStore, manifest: Manifest, reader: LogReader) -> bool:
    """Write the stored steps into the rows of a loaded chunk table; whether all were found."""
    live = manifest.live()
    missing = np.zeros(store.capacity * store.chunk_steps, np.bool_)
    missing[store.stored_rows()] = True
    for record in reader.records:
        if record.header.stream_id not in live:
            continue
        slices = store.slices(record.header.stream_id, record.header.first_step, record.end_step)
        if not any(missing[chunk * store.chunk_steps + offset :][:count].any() for chunk, offset, count in slices):
            continue
        try:
            _, steps = reader.read(record)
        except RecordError:
            continue
        for chunk, offset, count in slices:
            low = chunk * store.chunk_steps + offset
            begin = int(store.start[chunk]) + offset - steps.first_step
            for key, rows in store.data.items():
                rows[low : low + count] = steps.data[key][begin : begin + count]
            store.version[low : low + count] = steps.version[begin : begin + count]
            missing[low : low + count] = False
    return not missing.any()


def _store_anew(
    records: Iterable[_Entry],
    sources: Sequence[Source],
    make_store: MakeStore,
    content: Content,
    tail: bool,
    mine: Callable[[int], bool],
) -> int:
    """Store the live steps of manifests and the tails behind them, in the order of the records.

    Returns:
        Steps the manifests say are stored.
    """
    manifests = [source.manifest for source in sources if source.manifest is not None]
    live: dict[int, list[tuple[int, int]]] = {}
    for manifest in manifests:
        live |= {stream: spans for stream, spans in manifest.live().items() if mine(stream)}
    _store_records(records, make_store, content, tail, live)
    owned = sum(end - first for spans in live.values() for first, end in spans)
    content.lost_steps += owned - content.checkpoint_steps
    content.count("lost_steps", owned - content.checkpoint_steps)
    store, views = content.store, content.views
    if store is None or views is None:
        return owned
    for manifest in manifests:
        versions = _part(manifest, "late_version/")
        store.rewrites.reserve(versions)
        rows, source_rows = _correspondence(manifest, store, mine)
        store.rewrites.load_arrays(_part(manifest, "late/"), versions, rows, source_rows)
        views.adopt(manifest.arrays, rows, source_rows)
    return owned


def _store_records(
    records: Iterable[_Entry],
    make_store: MakeStore,
    content: Content,
    tail: bool,
    live: Mapping[int, list[tuple[int, int]]],
) -> None:
    stored_to: dict[int, int] = {}
    if content.store is not None:
        stored_to = {stream: end for stream, (_, end) in content.store.streams().items()}
    for reader, _, record in records:
        stream, end = record.header.stream_id, record.end_step
        first = max(record.header.first_step, stored_to.get(stream, 0))
        known = content.next_step.get(stream, 0)
        pieces = [(max(first, low), min(end, high)) for low, high in live.get(stream, ())]
        pieces = [(low, high) for low, high in pieces if low < high]
        behind = max(first, known)
        if not pieces and not (tail and behind < end):
            continue
        try:
            schema, steps = reader.read(record)
        except RecordError:
            continue
        if content.store is None:
            content.store, content.views = make_store(schema)
        for low, high in pieces:
            _append(content.store, steps, low, high)
            content.checkpoint_steps += high - low
            stored_to[stream] = high
        if tail and behind < end:
            _append(content.store, steps, behind, end)
            hole = behind - known
            content.tail_steps += end - behind
            content.tail_blocks += 1
            content.lost_steps += hole
            content.count("lost_steps", hole)
            content.count("inserted_steps", end - known)
            content.next_step[stream] = stored_to[stream] = end


def _append(store: ChunkStore, steps: Steps, first: int, end: int) -> None:
    low, high = first - steps.first_step, end - steps.first_step
    data = {key: values[low:high] for key, values in steps.data.items()}
    priority = None if steps.priority is None else steps.priority[low:high]
    store.append(steps.stream_id, first, steps.version[low:high], data, priority=priority)


def _part(manifest: Manifest, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): a for name, a in manifest.arrays.items() if name.startswith(prefix)}


def _correspondence(
    manifest: Manifest, store: ChunkStore, mine: Callable[[int], bool]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows of the store, indices into the manifest's arrays) of the steps that both hold."""
    rows, indices, index = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for stream, first, end in manifest.spans.tolist():
        for chunk, offset, count in store.slices(stream, first, end) if mine(stream) else ():
            rows.append(np.arange(count) + chunk * store.chunk_steps + offset)
            indices.append(np.arange(count) + index + int(store.start[chunk]) + offset - first)
        index += end - first
    return np.concatenate(rows), np.concatenate(indices)
