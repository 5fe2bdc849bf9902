"""Records of the shard's log: consecutive steps of one stream, as bytes.

    record = header | meta | columns
    header   64 bytes, fixed: magic, version, codec, lengths, sequence number, stream, steps, checksums
    meta     msgpack: schema, runs of policy versions, bytes of the columns before compression, whether there are
             priorities
    columns  the arrays [T, ...] of the schema's columns, and perhaps initial priorities, one after the other, raw or as
             one zstd frame

The header has its own checksum and names the steps, so a damaged body still says what was lost.
Numbers are little-endian; the arrays keep the byte order of their dtype.

Letters: T steps.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgpack
import numpy as np
import zstandard
from numpy.typing import NDArray

from actors.replay.store.files import Bytes
from actors.replay.store.schema import Schema
from native import crc32

FORMAT_VERSION = 1
MAGIC = b"\x89WFREC\r\n"
_HEADER = struct.Struct("<8sHHIQQQqII4xI")  # the last checksum covers all before it
HEADER_BYTES = _HEADER.size
_CHECKED_BYTES = HEADER_BYTES - 4
RAW, ZSTD = 0, 1
_ZSTD_LEVEL = 1
_PAYS = 1.1  # least ratio at which a record is compressed
_TRIAL_BYTES = 1 << 18
_TRIAL_EVERY = 64  # records stored raw before compression is tried again


class RecordError(ValueError):
    """Bytes that cannot be what the log wrote."""


class RecordHeader(NamedTuple):
    """The fixed part of a record."""

    codec: int
    meta_bytes: int
    body_bytes: int  # meta and columns as stored
    sequence: int
    stream_id: int
    first_step: int
    num_steps: int
    body_crc: int


@dataclass(frozen=True)
class Steps:
    """Consecutive steps of one stream."""

    stream_id: int
    first_step: int
    version: NDArray[np.int64]  # [T] weights version of each step
    data: Mapping[str, NDArray[Any]]  # [T, ...] by key
    priority: NDArray[np.float32] | None = None  # [T] they were inserted with, NaN for none

    def __len__(self) -> int:
        return len(self.version)


@dataclass(frozen=True)
class Encoded:
    """A record but for its place in the log."""

    stream_id: int
    first_step: int
    num_steps: int
    codec: int
    meta: bytes
    columns: Sequence[Bytes]
    body_bytes: int
    body_crc: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole record."""
        return HEADER_BYTES + self.body_bytes

    def header(self, sequence: int) -> bytes:
        """The header that gives the record its sequence number."""
        fields = (self.codec, len(self.meta), self.body_bytes, sequence, self.stream_id, self.first_step)
        packed = _HEADER.pack(MAGIC, FORMAT_VERSION, *fields, self.num_steps, self.body_crc, 0)
        return packed[:_CHECKED_BYTES] + struct.pack("<I", crc32(packed[:_CHECKED_BYTES]))


class Encoder:
    """Turns steps into records and remembers which schemas compress.

    Args:
        compression: "none", "zstd", or "auto": a sample decides, and where it does not pay, the next records
            of the same schema are stored raw without asking again.
    """

    def __init__(self, compression: Literal["auto", "zstd", "none"]) -> None:
        self._compression = compression
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        self._raw_left: dict[int, int] = {}  # schema hash -> records to store raw before the next trial

    def encode(self, schema: Schema, steps: Steps) -> Encoded:
        """The record of these steps; raw columns stay views of their arrays."""
        columns: list[Bytes] = [
            np.ascontiguousarray(steps.data[column.key]).reshape(-1).view(np.uint8).data for column in schema.columns
        ]
        if steps.priority is not None:
            columns.append(np.ascontiguousarray(steps.priority, "<f4").view(np.uint8).data)
        raw_bytes = sum(len(column) for column in columns)
        codec = ZSTD if self._pays(schema, columns) else RAW
        if codec == ZSTD:
            stream = self._compressor.compressobj(size=raw_bytes)
            columns = [part for part in (*map(stream.compress, columns), stream.flush()) if part]
        fields = {"schema": schema.as_lists(), "versions": _runs(steps.version), "raw_bytes": raw_bytes}
        meta = msgpack.packb(fields if steps.priority is None else fields | {"priorities": True})
        crc = crc32(meta)
        for column in columns:
            crc = crc32(column, crc)
        body_bytes = len(meta) + sum(len(column) for column in columns)
        return Encoded(steps.stream_id, steps.first_step, len(steps), codec, meta, columns, body_bytes, crc)

    def _pays(self, schema: Schema, columns: Sequence[Bytes]) -> bool:
        if self._compression != "auto":
            return self._compression == "zstd"
        left = self._raw_left.get(schema.hash, 0)
        if left:
            self._raw_left[schema.hash] = left - 1
            return False
        sample = max(columns, key=len)[:_TRIAL_BYTES]
        pays = len(sample) >= _PAYS * len(self._compressor.compress(sample))
        if not pays:
            self._raw_left[schema.hash] = _TRIAL_EVERY
        return pays


def parse_header(buffer: bytes | memoryview) -> RecordHeader | None:
    """The header at the beginning of `buffer`, None if there is no intact one.

    Raises:
        ValueError: The header is intact and of another format version.
    """
    if len(buffer) < HEADER_BYTES or bytes(buffer[: len(MAGIC)]) != MAGIC:
        return None
    _, version, codec, *fields, crc = _HEADER.unpack_from(buffer)
    if crc32(buffer[:_CHECKED_BYTES]) != crc:
        return None
    if version != FORMAT_VERSION:
        raise ValueError(f"replay log record has format version {version}, this program reads {FORMAT_VERSION}")
    return RecordHeader(codec, *fields)


def decode(header: RecordHeader, body: NDArray[np.uint8]) -> tuple[Schema, Steps]:
    """The steps of a record; raw columns are views of `body`.

    Raises:
        RecordError: The body is damaged.
    """
    if crc32(body.data) != header.body_crc:
        raise RecordError("the checksum of its body is wrong")
    meta = msgpack.unpackb(body[: header.meta_bytes].tobytes())
    schema = Schema.from_lists(meta["schema"])
    columns = body[header.meta_bytes :]
    if header.codec == ZSTD:
        columns = np.frombuffer(zstandard.ZstdDecompressor().decompress(columns.data, meta["raw_bytes"]), np.uint8)
    data, offset = {}, 0
    for column in schema.columns:
        raw = columns[offset : offset + header.num_steps * column.step_bytes]
        data[column.key] = raw.view(column.dtype).reshape(header.num_steps, *column.shape)
        offset += raw.nbytes
    priority = columns[offset:].view("<f4") if meta.get("priorities") else None
    counts, versions = np.array(meta["versions"], np.int64).reshape(-1, 2).T
    return schema, Steps(header.stream_id, header.first_step, np.repeat(versions, counts), data, priority)


def _runs(version: NDArray[np.int64]) -> list[list[int]]:
    """[[steps, version], ...] of runs of equal versions."""
    starts = np.flatnonzero(np.diff(version, prepend=version[0] - 1))
    counts = np.diff(starts, append=len(version))
    return [[int(n), int(v)] for n, v in zip(counts, version[starts], strict=True)]
