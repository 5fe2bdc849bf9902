"""Manifests: what a shard holds at one moment, over the steps in its log.

A manifest is one file `manifest-<name>.msgpack`, committed by rename:

    manifest = head | meta | arrays
    head     40 bytes: magic, format version, lengths, checksums
    meta     msgpack: name, ordinal, place in the log, stored steps, books, list of the arrays
    arrays   raw, one behind the other
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from actors.replay.store.files import write_file
from actors.replay.store.scan import Damage
from native import crc32

FORMAT_VERSION = 1
AUTO = "@auto"
"""Name of the manifest a shard writes by itself when its log needs thinning out."""
_MAGIC = b"WFREPMAN"
_HEAD = struct.Struct("<8sIIQII4xI")
_CHECKED_BYTES = _HEAD.size - 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ManifestError(ValueError):
    """A manifest file that cannot be what was written."""


@dataclass(frozen=True)
class Manifest:
    """The state of a shard when it was taken."""

    name: str
    ordinal: int  # grows with every manifest of the folder
    sequence: int  # records from this one on may hold steps that came later
    spans: NDArray[np.uint64]  # [n, 3] stream, first step, end step of what was stored, the oldest first
    books: Mapping[str, Any]  # plain values: schema, counters, generator, ...
    arrays: Mapping[str, NDArray[Any]]  # empty in a list of manifests; `read_manifest` loads them

    @property
    def num_steps(self) -> int:
        """Steps stored then."""
        return int((self.spans[:, 2] - self.spans[:, 1]).sum())

    def live(self) -> dict[int, list[tuple[int, int]]]:
        """(first step, end) of the stored steps by stream, in order, neighbours joined."""
        live: dict[int, list[tuple[int, int]]] = {}
        for stream, first, end in sorted(self.spans.tolist()):
            spans = live.setdefault(stream, [])
            if spans and spans[-1][1] >= first:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((first, end))
        return live


def check_name(name: str) -> str:
    """The name of a checkpoint.

    Raises:
        ValueError: It cannot be part of a file name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a checkpoint's name is made of letters, digits, '.', '_' and '-', got {name!r}")
    return name


def manifest_path(directory: Path, name: str) -> Path:
    """The file of a manifest."""
    return directory / f"manifest-{name}.msgpack"


def write_manifest(directory: Path, manifest: Manifest) -> int:
    """Commit a manifest; its bytes.

    Raises:
        OSError: It could not be written; an older one of the same name is as it was.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in manifest.arrays.items()}
    columns = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    meta = msgpack.packb(
        {
            "name": manifest.name,
            "ordinal": manifest.ordinal,
            "sequence": manifest.sequence,
            "spans": np.ascontiguousarray(manifest.spans, "<u8").tobytes(),
            "books": manifest.books,
            "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
        }
    )
    crc = 0
    for column in columns:
        crc = crc32(column, crc)
    array_bytes = sum(len(column) for column in columns)
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, len(meta), array_bytes, crc32(meta), crc, 0)[:_CHECKED_BYTES]
    head += struct.pack("<I", crc32(head))
    write_file(manifest_path(directory, manifest.name), [head, meta, *columns])
    return len(head) + len(meta) + array_bytes


def read_manifest(path: Path, with_arrays: bool = True) -> Manifest:
    """Load a manifest, its arrays only if asked for.

    Raises:
        ManifestError: The file is damaged.
        ValueError: The file has another format version.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or head[: len(_MAGIC)] != _MAGIC:
            raise ManifestError("it does not begin like a manifest")
        _, version, meta_bytes, array_bytes, meta_crc, array_crc, head_crc = _HEAD.unpack(head)
        if crc32(head[:_CHECKED_BYTES]) != head_crc:
            raise ManifestError("the checksum of its head is wrong")
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has format version {version}, this program reads {FORMAT_VERSION}")
        meta = file.read(meta_bytes)
        if crc32(meta) != meta_crc:
            raise ManifestError("the checksum of its meta data is wrong")
        content = np.fromfile(file, np.uint8, array_bytes) if with_arrays else None
    if content is not None and (len(content) != array_bytes or crc32(content.data) != array_crc):
        raise ManifestError("the checksum of its arrays is wrong")
    try:
        fields = msgpack.unpackb(meta, strict_map_key=False)
        spans = np.frombuffer(fields["spans"], "<u8").reshape(-1, 3)
        arrays = {} if content is None else _split(content, fields["arrays"])
        manifest = Manifest(fields["name"], fields["ordinal"], fields["sequence"], spans, fields["books"], arrays)
    except (LookupError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise ManifestError(f"its meta data is not that of a manifest: {type(error).__name__}: {error}") from error
    books = manifest.books
    if not (isinstance(manifest.ordinal, int) and isinstance(manifest.sequence, int) and isinstance(books, dict)):
        raise ManifestError("its meta data is not that of a manifest")
    return manifest


def list_manifests(directory: Path) -> tuple[list[Manifest], list[Damage]]:
    """The manifests of a folder without their arrays, the newest last, and those that are damaged.

    Raises:
        ValueError: A file has another format version.
    """
    whole, damage = [], []
    for path in sorted(directory.glob("manifest-*.msgpack")):
        try:
            whole.append(read_manifest(path, with_arrays=False))
        except ManifestError as error:
            damage.append(damage_of(path, error))
    return sorted(whole, key=lambda manifest: manifest.ordinal), damage


def damage_of(path: Path, error: ManifestError) -> Damage:
    """The report of a damaged manifest."""
    return Damage(str(path), 0, path.stat().st_size, str(error))


def _split(content: NDArray[np.uint8], fields: list[list[Any]]) -> dict[str, NDArray[Any]]:
    arrays, offset = {}, 0
    for name, dtype, shape in fields:
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        arrays[name] = content[offset : offset + count].copy().view(dtype).reshape(shape)
        offset += count
    return arrays
