"""A replay that another run has left: found and looked at, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.replay.store.files import unchanged
from actors.replay.store.layout import shard_folders
from actors.replay.store.recovery import open_source
from actors.replay.store.schema import Schema


@dataclass(frozen=True)
class StoredReplay:
    """What the shard folders of a replay hold."""

    folders: tuple[Path, ...]
    schema: Schema
    longest: int  # steps of its longest stream


def open_stored(path: Path) -> StoredReplay:
    """The replay in `path`; nothing in it changes.

    Args:
        path: Directory of a run, or the folder of its replay.

    Raises:
        ValueError: There is none, it is empty, in use, or of another format version.
    """
    folders = stored_folders(path)
    schema: Schema | None = None
    spans: dict[int, tuple[int, int]] = {}  # stream -> first step and end
    with unchanged(folders, patience=0.0):
        for folder in folders:
            source = open_source(folder, None, tail=True)
            found, known = [], dict[int, int]()
            if source.manifest is not None:
                books = source.manifest.books
                known = dict(books["next_step"])
                found = [(stream, *piece) for stream, pieces in source.manifest.live().items() for piece in pieces]
                if books["schema"] is not None:
                    schema = Schema.from_lists(books["schema"])
            for record in source.reader.records:
                stream = record.header.stream_id
                if record.end_step > known.get(stream, 0):  # logged after the manifest
                    found.append((stream, record.header.first_step, record.end_step))
                    schema = schema or source.reader.read(record)[0]
            source.reader.close()
            for stream, first, end in found:
                low, high = spans.get(stream, (first, end))
                spans[stream] = min(low, first), max(high, end)
    if schema is None or not spans:
        raise ValueError(f"the replay in {path} holds no steps")
    return StoredReplay(folders, schema, max(end - first for first, end in spans.values()))


def stored_folders(path: Path) -> tuple[Path, ...]:
    """The shard folders of the replay of a run directory, or of a replay folder.

    Raises:
        ValueError: There are none.
    """
    for root in (path / "replay", path):
        folders = shard_folders(root)
        if folders:
            return folders
    raise ValueError(f"{path} holds no replay: it is neither the directory of a run nor the folder of a replay")
