"""Opening the folder of a durable shard.

lock                     held while a process writes the folder
segment-<number>.log     the steps, in the order in which they were logged
manifest-<name>.msgpack  what was stored at a checkpoint, over those steps
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from actors.replay.config import ReplayConfig
from actors.replay.flow.routing import route
from actors.replay.store.files import LOCK, FolderLock, sync_folder, unchanged
from actors.replay.store.journal import Journal
from actors.replay.store.log import SegmentLog
from actors.replay.store.manifest import Manifest, manifest_path
from actors.replay.store.recovery import Content, MakeStore, Recovery, import_shards, open_source, recover
from actors.replay.store.scan import Record

logger = logging.getLogger(__name__)

_SEGMENTS = 8  # a shard's log has at least this many segments at its byte bound, so that it can be thinned out
_LEAST_SEGMENT_BYTES = 1 << 12


@dataclass(frozen=True)
class OpenedFolder:
    """A shard's folder, recovered and locked."""

    journal: Journal
    content: Content
    recovery: Recovery
    logged: dict[int, int]  # stream -> end of the steps in the log
    lossy: bool  # whether acknowledged steps may be missing


def open_folder(
    directory: Path,
    config: ReplayConfig,
    make_store: MakeStore,
    restore: str | None,
    tail: bool,
    sources: Sequence[Path],
    index: int,
) -> OpenedFolder:
    """Lock a shard's folder, recover its content and make it ready for writing; see `ReplayShard`.

    Raises:
        ValueError: Another process has the folder, the checkpoint is missing or damaged, or a file has another
            format version.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sync_folder(directory.parent)
    used_before = (directory / LOCK).exists()
    lock = FolderLock(directory)
    with ExitStack() as undo:
        undo.callback(lock.release)
        for temporary in directory.glob("*.tmp"):
            temporary.unlink()
        imports = bool(sources) and not _imported(directory, restore, tail)
        if imports:  # an import that was cut short begins anew
            for path in (*directory.glob("manifest-*.msgpack"), *directory.glob("segment-*.log")):
                path.unlink()
        source = open_source(directory, None if imports else restore, tail)
        if imports:
            with unchanged(sources):
                content, recovery = import_shards(
                    sources,
                    make_store,
                    lambda stream: route(stream, config.num_shards) == index,
                    index == 0,
                    restore,
                    tail,
                )
        else:
            content, recovery = recover(source, make_store, config.chunk_steps, tail)
        manifests = source.manifests
        if not tail and not imports:
            manifests = _cut_manifests(directory, manifests, source.manifest)
        log = SegmentLog(source.reader, min(config.durability.segment_bytes, _most_segment_bytes(config)))
        if not tail and not imports:
            _cut_log(log, source.manifest)
        log.next_sequence = max([log.next_sequence, *(manifest.sequence for manifest in manifests)])
        journal = Journal(log, manifests, config.durability, config.shard_bytes, lock)
        undo.pop_all()
    for damage in recovery.damage:
        logger.warning("replay: %s", damage)
    if recovery.lost_steps:
        logger.warning("replay: %d steps that %s held are gone", recovery.lost_steps, directory)
    if recovery.torn_bytes:
        logger.warning("replay: cut an unfinished write of %d bytes off %s", recovery.torn_bytes, directory)
    lossy = bool(recovery.damage) or (used_before and config.durability.mode != "sync")
    return OpenedFolder(journal, content, recovery, {} if imports else dict(content.next_step), lossy)


def _imported(directory: Path, restore: str | None, tail: bool) -> bool:
    """Whether the folder already holds what it was to import, and the checkpoint asked for is not an older one."""
    if restore is None or tail:
        return any(directory.glob("manifest-*.msgpack"))
    return manifest_path(directory, restore).exists()


def _most_segment_bytes(config: ReplayConfig) -> int:
    return max(config.shard_bytes // _SEGMENTS, _LEAST_SEGMENT_BYTES)


def _cut_manifests(directory: Path, manifests: Sequence[Manifest], kept: Manifest | None) -> list[Manifest]:
    """Remove the manifests after the one that was restored, before the log loses what they need."""
    newest = -1 if kept is None else kept.ordinal
    for manifest in manifests:
        if manifest.ordinal > newest:
            manifest_path(directory, manifest.name).unlink()
    sync_folder(directory)
    return [manifest for manifest in manifests if manifest.ordinal <= newest]


def _cut_log(log: SegmentLog, manifest: Manifest | None) -> None:
    """Drop the records of steps that came after the manifest was taken."""
    sequence = 0 if manifest is None else manifest.sequence
    next_step: Mapping[int, int] = {} if manifest is None else dict(manifest.books["next_step"])

    def after(record: Record) -> bool:
        return record.sequence >= sequence and record.end_step > next_step.get(record.header.stream_id, 0)

    log.drop(after)
