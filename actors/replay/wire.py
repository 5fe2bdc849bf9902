"""Blocks on the wire: a msgpack header and one raw buffer beside it.

The header names the schema once and every block in a few integers; the buffer holds the arrays of block
after block, key after key, each array on an 8-byte boundary. Inside Ray the buffer travels out of band.
Numbers keep the byte order of their dtype string, so any language with msgpack can read a message.

Letters: T steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.schema import Schema

FORMAT_VERSION = 1
_ALIGNMENT = 8
_PADDING = [bytes(-size % _ALIGNMENT) for size in range(_ALIGNMENT)]  # by size modulo the alignment
_FIELDS = {"format", "schema", "schema_hash", "blocks", "num_bytes", "crc"}


class WireError(ValueError):
    """A message that cannot be what a sender wrote."""


def encode_blocks(blocks: Sequence[Block]) -> tuple[bytes, NDArray[np.uint8]]:
    """Blocks of one schema as (header, payload).

    Raises:
        ValueError: There is no block, or the schemas differ.
    """
    if not blocks:
        raise ValueError("a message needs at least one block")
    schema = Schema.of(blocks[0].data)
    parts: list[memoryview | bytes] = []
    for block in blocks:
        if not schema.matches(block.data):
            schema.check(Schema.of(block.data))
        for column in schema.columns:
            array = np.ascontiguousarray(block.data[column.key])
            parts += (array.data, _PADDING[array.nbytes % _ALIGNMENT])
    payload = np.frombuffer(b"".join(parts), np.uint8)
    header = {
        "format": FORMAT_VERSION,
        "schema": schema.as_lists(),
        "schema_hash": schema.hash,
        "blocks": [[b.stream_id, b.first_step, b.policy_version, b.num_steps] for b in blocks],
        "num_bytes": payload.nbytes,
        "crc": zlib.crc32(payload.data),
    }
    return msgpack.packb(header), payload


def decode_blocks(header: bytes, payload: NDArray[np.uint8]) -> list[Block]:
    """The blocks of a message; their arrays are views of `payload`.

    Raises:
        WireError: The header is no header of this format, or the payload is not the one it describes.
    """
    fields = _read_header(header)
    schema = Schema.from_lists(fields["schema"])
    if schema.hash != fields["schema_hash"]:
        raise WireError(f"schema hash {schema.hash:#010x} differs from the header's {fields['schema_hash']:#010x}")
    spans, num_bytes = _layout(schema, [int(entry[3]) for entry in fields["blocks"]])
    if not num_bytes == fields["num_bytes"] == payload.nbytes:
        raise WireError(f"payload has {payload.nbytes} bytes, its header describes {num_bytes}")
    crc = zlib.crc32(payload.data)
    if crc != fields["crc"]:
        raise WireError(f"payload checksum {crc:#010x} differs from the header's {fields['crc']:#010x}")
    blocks = []
    for (stream_id, first_step, version, num_steps), offsets in zip(fields["blocks"], spans, strict=True):
        data = {}
        for column, offset in zip(schema.columns, offsets, strict=True):
            raw = payload[offset : offset + num_steps * column.step_bytes]
            data[column.key] = raw.view(column.dtype).reshape(num_steps, *column.shape)
        blocks.append(Block(stream_id, first_step, version, data))
    return blocks


def _read_header(header: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(header)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"header of {len(header)} bytes is not msgpack: {error}") from error
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise WireError(f"header lacks fields or has others than {sorted(_FIELDS)}")
    if fields["format"] != FORMAT_VERSION:
        raise WireError(f"message format {fields['format']} is not {FORMAT_VERSION}")
    return fields


def _layout(schema: Schema, num_steps: Sequence[int]) -> tuple[list[list[int]], int]:
    """Byte offset of every column of every block, and the total."""
    offset, spans = 0, []
    for steps in num_steps:
        offsets = []
        for column in schema.columns:
            offsets.append(offset)
            offset += -(-steps * column.step_bytes // _ALIGNMENT) * _ALIGNMENT
        spans.append(offsets)
    return spans, offset
