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

Files are named by process, and every new pool removes those of this user's dead processes: a killed learner
leaves at most its own slots behind, until the next one starts.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import struct
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.schema import Schema
from learner.batch import SequenceBatch

SHARED_MEMORY = Path("/dev/shm")
"""Where slots live; a file system in memory."""

_PREFIX = "worldfleet-slot"
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


class SlotError(RuntimeError):
    """A slot cannot be opened here, or is not the one a ticket was given for."""


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

    def __init__(self, layout: SlotLayout, path: Path | None) -> None:
        self.path = path
        self._memory = _map_new(path, layout.nbytes)
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
        self._directory = directory
        self._free: list[Slot] = []
        self._used = 0
        self._made = self._tickets = 0
        self._paths: set[Path] = set()
        self._close = weakref.finalize(self, _unlink, self._paths)  # also at the interpreter's end
        if directory is not None:
            remove_stale_slots(directory)
            self._stem = f"{_PREFIX}-{os.getuid()}-{_process_key(os.getpid())}-{secrets.token_hex(4)}"

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
        if slot.path is not None:
            self._paths.discard(slot.path)
            slot.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the files; views that are still held stay readable."""
        self._free.clear()
        self._close()

    def _make(self) -> Slot:
        if self._directory is None:
            return Slot(self.layout, None)
        self._made += 1
        path = self._directory / f"{self._stem}-{self._made}"
        self._paths.add(path)
        return Slot(self.layout, path)


class OpenSlots:
    """The slots a shard has mapped, each opened once."""

    def __init__(self, directory: Path = SHARED_MEMORY) -> None:
        self._directory = directory
        self._memory: dict[str, mmap.mmap] = {}

    @contextmanager
    def writing(self, ticket: SlotTicket, layout: SlotLayout) -> Iterator[SequenceBatch]:
        """The slot's arrays, for the holder of the ticket.

        Raises:
            SlotError: The slot cannot be opened, has another layout, or was handed out anew before or meanwhile.
        """
        memory = self._open(ticket.name)
        self._check(memory, ticket, layout)
        yield layout.batch(memory)
        self._check(memory, ticket, layout)

    def _open(self, name: str) -> mmap.mmap:
        memory = self._memory.get(name)
        if memory is None:
            if not name.startswith(_PREFIX) or "/" in name:
                raise SlotError(f"{name!r} is not the name of a slot")
            gone = [known for known in self._memory if not (self._directory / known).exists()]
            for known in gone:
                del self._memory[known]
            memory = self._memory[name] = _map_existing(self._directory / name)
        return memory

    @staticmethod
    def _check(memory: mmap.mmap, ticket: SlotTicket, layout: SlotLayout) -> None:
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


def remove_stale_slots(directory: Path = SHARED_MEMORY) -> int:
    """Remove the slots that this user's dead processes left; how many."""
    prefix = f"{_PREFIX}-{os.getuid()}-"
    removed = 0
    for path in directory.glob(f"{prefix}*"):
        namespace, pid, started, *_ = path.name.removeprefix(prefix).split("-")
        if namespace == _pid_namespace() and f"{namespace}-{pid}-{started}" != _process_key(int(pid)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _map_new(path: Path | None, num_bytes: int) -> mmap.mmap:
    if path is None:
        return mmap.mmap(-1, num_bytes)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)  # a full file system is an error here, not a signal later
            return mmap.mmap(descriptor, num_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        hint = "; is the shared memory too small?" if error.errno in (errno.ENOSPC, errno.ENOMEM) else ""
        raise SlotError(f"cannot make a slot of {num_bytes} bytes in {path.parent}: {error}{hint}") from error


def _map_existing(path: Path) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size < _HEADER.size:
                raise SlotError(f"{path.name} is too small for a slot")
            return mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SlotError(f"cannot open the slot {path}: {error}") from error


def _unlink(paths: set[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    paths.clear()


def _pid_namespace() -> str:
    """Tells processes apart that have equal ids in different containers."""
    try:
        return "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    except OSError:
        return "0"


def _process_key(pid: int) -> str:
    """Name of a living process that no other process ever has; another one if it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return f"{_pid_namespace()}-{pid}-gone"
    return f"{_pid_namespace()}-{pid}-{stat.rpartition(')')[2].split()[19]}"  # field 22: start time
