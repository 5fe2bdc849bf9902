"""Batches in shared memory: a learner owns slots, the shards of its node write into them.

    learner                                         shard actor
    slot = pool.acquire() --- slot.ticket, by Ray -->  with slots.writing(ticket, layout) as batch:
    slot.batch            <-- rows written, by Ray --      shard.sample(..., out=batch)

A slot is one file: a header, then the arrays of a batch, each contiguous and on a 64-byte boundary. What keeps
a writer out of memory that is no longer its own:

- the header carries a fingerprint of the layout, and the number of the ticket the slot was handed out with;
  a writer compares both before and after it writes;
- a slot whose writer may still be at work is retired: its file is unlinked and never read again, and a new
  file takes its place.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.store.schema import Schema
from actors.replay.wire.shared import OpenFiles, SharedFiles, SlotError
from envs.scratch import SHARED_MEMORY
from learner.batch import SequenceBatch

_KIND = "slot"
_ALIGNMENT = 64
_MAGIC = b"wfslot\r\n"
_FORMAT = 1
_HEADER = struct.Struct("<8sIIQQ")  # magic, format, fingerprint of the layout, bytes, number of the ticket
_NUMBER_OFFSET = _HEADER.size - 8
_ROW_FIELDS = (  # per sequence: name, dtype, trailing shape
    ("stream_id", "<u8", ()),
    ("first_step", "<i8", ()),
    ("policy_version", "<i8", ()),
    ("weight", "<f4", ()),
    ("handle", "<i8", (3,)),
)


@dataclass(frozen=True)
class SlotTicket:
    """Permission to write into one slot once."""

    name: str  # of the file
    number: int  # of the permission; a slot that was handed out again has another one


@dataclass(frozen=True)
class SlotLayout:
    """Where the arrays of a batch lie in a slot.

    Args:
        schema: Columns of a step.
        batch_size: Sequences, B.
        length: Steps of each, T.
    """

    schema: Schema
    batch_size: int
    length: int

    @cached_property
    def fields(self) -> dict[str, tuple[str, tuple[int, ...], int]]:
        """(dtype, shape, byte offset) of every array; columns of the schema are called `data/<key>`."""
        arrays = {f"data/{c.key}": (c.dtype, (self.batch_size, self.length, *c.shape)) for c in self.schema.columns} | {
            name: (dtype, (self.batch_size, *shape)) for name, dtype, shape in _ROW_FIELDS
        }
        offset, placed = _ALIGNMENT, {}
        for name, (dtype, shape) in arrays.items():
            placed[name] = (dtype, shape, offset)
            offset += _aligned(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        return placed

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a slot."""
        dtype, shape, offset = list(self.fields.values())[-1]
        return offset + _aligned(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)

    @cached_property
    def fingerprint(self) -> int:
        """32 bits that differ for another layout."""
        return zlib.crc32(repr(self.fields).encode())

    def batch(self, memory: mmap.mmap) -> SequenceBatch:
        """The arrays of a slot as one batch of views."""
        views: dict[str, NDArray[Any]] = {
            name: np.ndarray(shape, dtype, memory, offset) for name, (dtype, shape, offset) in self.fields.items()
        }
        data = {column.key: views[f"data/{column.key}"] for column in self.schema.columns}
        return SequenceBatch(data=data, **{name: views[name] for name, _, _ in _ROW_FIELDS})


class Slot:
    """Memory for one batch, of its owner."""

    def __init__(self, layout: SlotLayout, path: Path | None, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory
        self.batch = layout.batch(self._memory)
        _HEADER.pack_into(self._memory, 0, _MAGIC, _FORMAT, layout.fingerprint, layout.nbytes, 0)

    def stamp(self, number: int) -> None:
        """Make `number` the only ticket that may write; 0 is nobody's."""
        struct.pack_into("<Q", self._memory, _NUMBER_OFFSET, number)

    @property
    def ticket(self) -> SlotTicket:
        """The ticket of the last stamp, for shards of this node."""
        assert self.path is not None, "private memory has no tickets"
        return SlotTicket(self.path.name, struct.unpack_from("<Q", self._memory, _NUMBER_OFFSET)[0])


class SlotPool:
    """Slots of one layout, made when first needed and used again and again.

    Args:
        layout: What a slot holds.
        num_slots: Slots at most.
        directory: Where the files are; None takes private memory, for batches that come by other ways.
    """

    def __init__(self, layout: SlotLayout, num_slots: int, directory: Path | None = SHARED_MEMORY) -> None:
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        self.layout, self.num_slots, self.shared = layout, num_slots, directory is not None
        self._files = None if directory is None else SharedFiles(_KIND, directory)
        self._free: list[Slot] = []
        self._used = self._tickets = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the slots that exist."""
        return (self._used + len(self._free)) * self.layout.nbytes

    def acquire(self) -> Slot:
        """A slot with a fresh ticket.

        Raises:
            SlotError: The shared memory is full or absent.
        """
        assert self._used < self.num_slots, "every slot is in use"
        slot = self._free.pop() if self._free else self._make()
        self._used += 1
        self._tickets += 1
        slot.stamp(self._tickets)
        return slot

    def release(self, slot: Slot) -> None:
        """Take a slot back that nobody writes into any more."""
        slot.stamp(0)
        self._used -= 1
        self._free.append(slot)

    def retire(self, slot: Slot) -> None:
        """Give a slot up that somebody may still write into."""
        slot.stamp(0)
        self._used -= 1
        if self._files is not None and slot.path is not None:
            self._files.remove(slot.path)

    def close(self) -> None:
        """Remove the files; views that are still held stay readable."""
        self._free.clear()
        if self._files is not None:
            self._files.close()

    def _make(self) -> Slot:
        if self._files is None:
            return Slot(self.layout, None, mmap.mmap(-1, self.layout.nbytes))
        return Slot(self.layout, *self._files.make(self.layout.nbytes))


class OpenSlots:
    """The slots a shard has mapped."""

    def __init__(self, directory: Path = SHARED_MEMORY) -> None:
        self._files = OpenFiles(_KIND, directory, writable=True)

    @contextmanager
    def writing(self, ticket: SlotTicket, layout: SlotLayout) -> Iterator[SequenceBatch]:
        """The slot's arrays, for the holder of the ticket.

        Raises:
            SlotError: The slot cannot be opened, has another layout, or was handed out anew before or meanwhile.
        """
        memory = self._files.map(ticket.name)
        self._check(memory, ticket, layout)
        yield layout.batch(memory)
        self._check(memory, ticket, layout)

    @staticmethod
    def _check(memory: mmap.mmap, ticket: SlotTicket, layout: SlotLayout) -> None:
        if len(memory) < _HEADER.size:
            raise SlotError(f"{ticket.name} is too small for a slot")
        magic, version, fingerprint, nbytes, number = _HEADER.unpack_from(memory)
        if (magic, version) != (_MAGIC, _FORMAT):
            raise SlotError(f"{ticket.name} is not a slot of this version")
        if (fingerprint, nbytes) != (layout.fingerprint, layout.nbytes) or len(memory) != nbytes:
            raise SlotError(
                f"{ticket.name} has {nbytes} bytes and another layout than batches of {layout.batch_size} sequences "
                f"of {layout.length} steps of this schema, which take {layout.nbytes} bytes"
            )
        if number != ticket.number:
            raise SlotError(f"{ticket.name} was handed out again: ticket {ticket.number} is not {number}")


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
