"""Blocks on the wire: a msgpack header with a checksum and one raw buffer beside it.

    header   msgpack map, with the CRC-32 of the payload | CRC-32 of the map, 4 bytes, big endian
    payload  arrays of block after block, column after column, each on an 8-byte boundary; the initial priorities of
             a block that has some come after its columns

The header names the schema once and every block in a few integers. Inside Ray the payload travels out of
band. Numbers keep the byte order of their dtype string, so any language with msgpack can read a message.
A message is taken as a whole or refused as a whole, and nothing is allocated for what a header claims.

Letters: T steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.store.schema import STEP_KEYS, Column, Schema
from native import crc32

FORMAT_VERSION = 4
_ALIGNMENT = 8
_PADDING = np.zeros(_ALIGNMENT, np.uint8)
_VIEWED_BYTES = 64 << 10  # arrays from this size on are pieces of their own
_CRC_BYTES = 4
_FIELDS = {"format", "schema", "schema_hash", "blocks", "num_bytes", "checksum"}
_DTYPE = re.compile(r"[<>|][biuf](1|2|4|8)")
_MAX_DIMENSIONS = 8
_INT64_MAX = (1 << 63) - 1
_PRIORITY = Column("priority", "<f4", ())


class WireError(ValueError):
    """A message that cannot be what a sender wrote."""


class Scratch:
    """Memory that one payload after another is put together in; it grows to the largest."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """Uninitialised bytes, valid until the next call."""
        if self._buffer.nbytes < num_bytes:
            self._buffer = np.empty(num_bytes, np.uint8)
        return self._buffer[:num_bytes]


def encode_blocks(blocks: Sequence[Block]) -> tuple[bytes, NDArray[np.uint8]]:
    """Blocks of one schema as (header, payload).

    Raises:
        ValueError: There is no block, or the schemas differ.
    """
    header, pieces = encode_pieces(blocks)
    payload = np.concatenate(pieces)
    payload.flags.writeable = False
    return header, payload


def encode_pieces(blocks: Sequence[Block]) -> tuple[bytes, list[NDArray[np.uint8]]]:
    """Blocks of one schema as (header, payload in pieces); large contiguous arrays are not copied but viewed.

    Raises:
        ValueError: There is no block, the schemas differ, or priorities are not one for each step.
    """
    if not blocks:
        raise ValueError("a message needs at least one block")
    schema = Schema.of(blocks[0].data)
    pieces: list[NDArray[np.uint8]] = []
    small: list[NDArray[np.uint8]] = []  # arrays in a row that one piece will hold
    for block in blocks:
        if not schema.matches(block.data):
            schema.check(Schema.of(block.data))
        arrays = [block.data[column.key] for column in schema.columns]
        if block.priority is not None:
            arrays.append(_checked_priority(block))
        for array in arrays:
            array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            if array.nbytes >= _VIEWED_BYTES:
                pieces += [np.concatenate(small), array] if small else [array]
                small = []
            else:
                small.append(array)
            small.append(_PADDING[: -array.nbytes % _ALIGNMENT])
    pieces.append(np.concatenate(small))
    checksum = 0
    for piece in pieces:
        checksum = crc32(piece.data, checksum)
    fields = {
        "format": FORMAT_VERSION,
        "schema": schema.as_lists(),
        "schema_hash": schema.hash,
        "blocks": [[b.stream_id, b.first_step, b.policy_version, b.num_steps, b.priority is not None] for b in blocks],
        "num_bytes": sum(piece.nbytes for piece in pieces),
        "checksum": checksum,
    }
    return seal(msgpack.packb(fields)), pieces


def decode_blocks(header: bytes, payload: NDArray[np.uint8]) -> list[Block]:
    """The blocks of a message; their arrays are views of `payload`.

    Raises:
        WireError: The header is no header of this format, or the payload is not the one it describes.
    """
    fields = _read_header(header)
    schema = _read_schema(fields["schema"])
    if schema.hash != fields["schema_hash"]:
        raise WireError(f"schema hash {schema.hash:#010x} differs from the header's {fields['schema_hash']!r}")
    entries = [_read_entry(entry) for entry in _list(fields["blocks"], "blocks")]
    columns = [(*schema.columns, _PRIORITY) if entry[4] else schema.columns for entry in entries]
    spans, num_bytes = _layout(columns, [entry[3] for entry in entries])
    if payload.dtype != np.uint8 or payload.ndim != 1 or not payload.flags.c_contiguous:
        raise WireError(f"payload is {payload.dtype} {payload.shape}, not contiguous bytes")
    if not num_bytes == fields["num_bytes"] == payload.nbytes:
        raise WireError(f"payload has {payload.nbytes} bytes, its header describes {num_bytes}")
    found = crc32(payload.data)
    if found != fields["checksum"]:
        raise WireError(f"payload checksum {found:#010x} differs from the header's {fields['checksum']!r}")
    blocks = []
    for (stream_id, first_step, version, num_steps, has_priority), own, offsets in zip(
        entries, columns, spans, strict=True
    ):
        arrays = []
        for column, offset in zip(own, offsets, strict=True):
            raw = payload[offset : offset + num_steps * column.step_bytes]
            arrays.append(raw.view(column.dtype).reshape(num_steps, *column.shape))
        priority = arrays.pop() if has_priority else None
        data = {column.key: array for column, array in zip(schema.columns, arrays, strict=True)}
        blocks.append(Block(stream_id, first_step, version, data, priority))
    return blocks


def _checked_priority(block: Block) -> NDArray[np.float32]:
    priority = block.priority
    assert priority is not None
    if priority.shape != (block.num_steps,) or priority.dtype != np.float32:
        raise ValueError(
            f"block of {block.num_steps} steps has priorities {priority.dtype} {priority.shape}, expected one float32 "
            "for each step"
        )
    return priority


def seal(packed: bytes) -> bytes:
    """`packed` with its checksum behind it."""
    return packed + crc32(packed).to_bytes(_CRC_BYTES, "big")


def block_spans(header: bytes) -> list[tuple[int, int, int]]:
    """(stream, first step, steps) of the blocks that a header of ours names."""
    return [(entry[0], entry[1], entry[3]) for entry in _read_header(header)["blocks"]]


def _read_header(header: bytes) -> dict[str, Any]:
    packed, seal_bytes = header[:-_CRC_BYTES], header[-_CRC_BYTES:]
    if len(header) <= _CRC_BYTES or crc32(packed) != int.from_bytes(seal_bytes, "big"):
        raise WireError(f"header of {len(header)} bytes is damaged: its checksum is wrong")
    try:
        fields = msgpack.unpackb(packed)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"header of {len(header)} bytes is not msgpack: {error}") from error
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise WireError(f"header lacks fields or has others than {sorted(_FIELDS)}")
    if fields["format"] != FORMAT_VERSION:
        raise WireError(f"message format {fields['format']!r} is not {FORMAT_VERSION}")
    return fields


def _read_schema(columns: Any) -> Schema:
    schema = Schema(tuple(_read_column(column) for column in _list(columns, "schema")))
    keys = [column.key for column in schema.columns]
    missing = [key for key in STEP_KEYS if key not in keys]
    if missing or len(set(keys)) < len(keys):
        raise WireError(f"schema has the keys {keys}, which lack {missing} or repeat")
    if any(column.key == "reward" and column.shape for column in schema.columns):
        raise WireError("schema gives a step more than one reward")
    return schema


def _read_column(column: Any) -> Column:
    if not (isinstance(column, list) and len(column) == 3):
        raise WireError(f"schema column {column!r} is not [key, dtype, shape]")
    key, dtype, shape = column
    if not (isinstance(key, str) and isinstance(dtype, str) and isinstance(shape, list)):
        raise WireError(f"schema column {column!r} is not [key, dtype, shape]")
    if not _DTYPE.fullmatch(dtype) or dtype[1:] in ("b2", "b4", "b8", "f1"):
        raise WireError(f"schema column {key!r} has dtype {dtype!r}, expected a plain number")
    sizes_fit = len(shape) <= _MAX_DIMENSIONS and all(type(size) is int and size >= 0 for size in shape)
    if not sizes_fit or math.prod(shape) * 8 > _INT64_MAX:
        raise WireError(f"schema column {key!r} has shape {shape!r}")
    return Column(key, dtype, tuple(shape))


def _read_entry(entry: Any) -> tuple[int, int, int, int, bool]:
    """(stream, first step, policy version, steps, whether it has priorities) of one block."""
    fits = isinstance(entry, list) and [type(value) for value in entry] == [int, int, int, int, bool]
    if not fits:
        raise WireError(f"block {entry!r} is not [stream, first step, version, steps, whether it has priorities]")
    stream_id, first_step, version, num_steps, has_priority = entry
    if not (0 <= stream_id < 1 << 64 and first_step >= 0 and num_steps >= 1 and abs(version) <= _INT64_MAX):
        raise WireError(f"block {entry!r} is outside the range of its fields")
    if first_step + num_steps > _INT64_MAX:
        raise WireError(f"block {entry!r} is outside the range of its fields")
    return stream_id, first_step, version, num_steps, has_priority


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise WireError(f"header field {name!r} is not a list with something in it")
    return value


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _layout(columns: Sequence[Sequence[Column]], num_steps: Sequence[int]) -> tuple[list[list[int]], int]:
    """Byte offset of every column of every block, and the total."""
    offset, spans = 0, []
    for own, steps in zip(columns, num_steps, strict=True):
        offsets = []
        for column in own:
            offsets.append(offset)
            offset += _padded(steps * column.step_bytes)
        spans.append(offsets)
    return spans, offset
