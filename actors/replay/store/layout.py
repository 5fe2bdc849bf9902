"""Folders of a sharded replay, over changes of the number of shards.

    layout-000000-of-2/shard-0/     until the number of shards changed
    layout-000000-of-2/shard-1/
    layout-000001-of-3/shard-0/     the newest layout is in use; a shard of it that holds no checkpoint
    layout-000001-of-3/shard-1/     imports its streams from the layout before
    layout-000001-of-3/shard-2/

The old layout goes at the first `retain` after a checkpoint of the whole new one.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from actors.replay.config import ReplayConfig
from actors.replay.shard import ReplayShard

_NAME = re.compile(r"layout-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Layout:
    """The folder of a replay with a certain number of shards."""

    path: Path
    number: int  # grows whenever the number of shards changes
    num_shards: int
    sources: tuple[Path, ...] = ()  # shard folders of the layout before, or of another replay; to import from

    def shard_folder(self, index: int) -> Path:
        """The folder of a shard."""
        return self.path / f"shard-{index}"

    def missing(self) -> list[int]:
        """Shards that hold no checkpoint yet."""
        return [i for i in range(self.num_shards) if not any(self.shard_folder(i).glob("manifest-*.msgpack"))]

    def drop_older(self) -> None:
        """Remove the layouts before this one, once every shard of this one holds a checkpoint."""
        for older in _layouts(self.path.parent) if not self.missing() else ():
            if older.number < self.number:
                shutil.rmtree(older.path)


def open_layout(root: Path, config: ReplayConfig, imported: tuple[Path, ...] = ()) -> Layout:
    """The layout for `config.num_shards` shards in the folder of a replay; call it once per run.

    If the newest one has another number of shards, a new one is made that imports from it. Should that one
    itself still lack what it was to import, it gets it first.

    Args:
        root: Folder of the replay.
        config: Its configuration.
        imported: Shard folders of another replay, from which the first layout imports.
    """
    layouts = _layouts(root, imported)
    newest = layouts[-1] if layouts else None
    if newest is None or newest.num_shards != config.num_shards:
        number, sources = 0, imported
        if newest is not None:
            _complete(newest, config)
            number, sources = newest.number + 1, _shard_folders(newest)
        path = root / f"layout-{number:06d}-of-{config.num_shards}"
        path.mkdir(parents=True)
        newest = Layout(path, number, config.num_shards, sources)
    return newest


def shard_folders(root: Path) -> tuple[Path, ...]:
    """The shard folders that hold what a replay holds: those of its newest layout that is not still importing."""
    layouts = _layouts(root)
    whole = [layout for layout in layouts if not layout.sources or not layout.missing()]
    return _shard_folders(whole[-1]) if whole else ()


def _layouts(root: Path, imported: tuple[Path, ...] = ()) -> list[Layout]:
    """All layouts in a folder, the oldest first, each with the shards of the one before as sources."""
    found = [(match, path) for path in root.glob("layout-*") if (match := _NAME.fullmatch(path.name))]
    layouts: list[Layout] = []
    for match, path in sorted(found, key=lambda item: int(item[0][1])):
        sources = _shard_folders(layouts[-1]) if layouts else imported
        layouts.append(Layout(path, int(match[1]), int(match[2]), sources))
    return layouts


def _shard_folders(layout: Layout) -> tuple[Path, ...]:
    return tuple(layout.shard_folder(index) for index in range(layout.num_shards))


def _complete(layout: Layout, config: ReplayConfig) -> None:
    """Do the imports that an earlier run of this layout was cut short in."""
    config = replace(config, num_shards=layout.num_shards)
    for index in layout.missing() if layout.sources else ():
        ReplayShard(config, 0, layout.shard_folder(index), sources=layout.sources, index=index).close()
