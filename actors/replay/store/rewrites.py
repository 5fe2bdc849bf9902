"""Values that are overwritten after their insertion: latents, targets, whatever is computed anew.

A value carries the version of the weights it was made with: at first that of the policy which acted, then what the
writer says. An older one never overwrites a newer one. Versions cost 4 bytes per step of capacity for every key that
was written with one, from the first such write on.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from actors.replay.store.chunks import ChunkStore

TARGET_VERSION_BYTES = 4
MAX_VERSION = (1 << 31) - 1


class Rewrites:
    """What was overwritten in a store.

    Args:
        store: The store.
    """

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.keys: set[str] = set()
        self._versions: dict[str, NDArray[np.int32]] = {}  # key -> [rows] version of the weights behind each value

    def check(
        self,
        chunk: NDArray[np.int64],
        offset: NDArray[np.int64],
        values: Mapping[str, NDArray[Any]],
        length: int | None,
        version: int | None,
    ) -> None:
        """Find out whether `write` can be done.

        Raises:
            ValueError: A key is unknown, values do not fit it or run past the end of a stream, or the version is
                out of range.
        """
        store = self._store
        if version is not None and not 0 <= version <= MAX_VERSION:
            raise ValueError(f"version must lie in [0, {MAX_VERSION}], got {version}")
        for key, new in values.items():
            column = store.data.get(key)
            if column is None:
                raise ValueError(f"key {key!r} is not stored; stored are {sorted(store.data)}")
            if new.ndim < 2 or new.shape[2:] != column.shape[1:]:
                raise ValueError(
                    f"values of {key!r} have shape {new.shape}, expected (B, T) and then {column.shape[1:]}"
                )
            if not np.can_cast(new.dtype, column.dtype, "same_kind"):
                raise ValueError(f"values of {key!r} are {new.dtype}, the replay stores {column.dtype}")
            steps = new.shape[1]
            if length is not None and steps > length:
                raise ValueError(f"{steps} values of {key!r} are for sequences of {length} steps")
            end = store.start[chunk] + offset + (length or steps)
            past = end > store.stream_end[store.stream_row[chunk]]
            if past.any():
                raise ValueError(
                    f"{steps} values of {key!r} run past the end of stream {store.stream_id[chunk][past][0]}"
                )

    def reserve(self, keys: Iterable[str]) -> None:
        """Make room for the versions of these keys, which may evict chunks.

        Raises:
            ValueError: The byte bound is too small for them.
        """
        new = [key for key in keys if key not in self._versions]
        if not new:
            return
        self._store.reserve(TARGET_VERSION_BYTES * len(new))
        rows = self._store.stored_rows()
        for key in new:
            self._versions[key] = np.zeros(len(self._store.version), np.int32)
            self._versions[key][rows] = np.minimum(self._store.version[rows], MAX_VERSION)

    def write(
        self,
        chunk: NDArray[np.int64],
        offset: NDArray[np.int64],
        values: Mapping[str, NDArray[Any]],
        length: int | None,
        version: int | None,
    ) -> int:
        """Overwrite keys of the stored sequences that start at (chunk [B], offset [B]); `check` comes first.

        Args:
            chunk: Chunk of the first step.
            offset: Offset of the first step in it.
            values: key -> new values [B, T, ...] of the last T steps; where sequences overlap, the last one counts.
            length: Steps of the sequences, None for those of the values.
            version: Of the weights the values were made with; None overwrites whatever is there.

        Returns:
            Sequences and keys of which some step was left alone, because what is there is newer.
        """
        superseded = 0
        for key, new in values.items():
            steps = new.shape[1]
            rows = self._store.rows(chunk, offset + (length or steps) - steps, steps)
            if version is not None:
                versions = self._versions[key]
                stays = versions[rows] > version
                if stays.any():
                    superseded += int(np.count_nonzero(stays.any(axis=1)))
                    rows, new = rows[~stays], new[~stays]
                versions[rows] = version
            self._store.data[key][rows] = new
            self.keys.add(key)
        return superseded

    def inserted(self, row: int, count: int) -> None:
        """Steps were stored in `count` rows from `row` on: their values are of the policy that acted."""
        for versions in self._versions.values():
            versions[row : row + count] = np.minimum(self._store.version[row : row + count], MAX_VERSION)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The overwritten keys of all stored steps, and their versions, for a manifest."""
        rows = self._store.stored_rows()
        values = {f"late/{key}": self._store.data[key].take(rows, axis=0) for key in sorted(self.keys)}
        return values | {f"late_version/{key}": column[rows] for key, column in sorted(self._versions.items())}

    def load_arrays(
        self, values: Mapping[str, NDArray[Any]], versions: Mapping[str, NDArray[Any]], rows: Any, source_rows: Any
    ) -> None:
        """Take over values and versions by key of another store: its steps `source_rows` are in `rows` here."""
        for key, column in values.items():
            self._store.data[key][rows] = column[source_rows]
            self.keys.add(key)
        for key, column in versions.items():
            self._versions[key][rows] = column[source_rows]
