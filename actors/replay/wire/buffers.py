"""Messages in shared memory: a sender owns buffers, the shards of its node read them.

    sender                                            shard actor
    buffer = box.pack(pieces) --- buffer.ticket, by Ray -->  open_buffers.read(ticket) -> checked, copied
    box.take_back(buffer)     <------- acknowledged --------

A buffer is packed anew only after its message was acknowledged, so a message that is repeated finds it unchanged.
What a shard reads is checked by the message's own checksum.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.replay.wire.shared import OpenFiles, SharedFiles, SlotError
from envs.scratch import SHARED_MEMORY

_KIND = "buffer"

logger = logging.getLogger(__name__)


class BufferTicket(NamedTuple):
    """Where the bytes of a message are."""

    name: str  # of the file
    num_bytes: int


class SharedBuffer:
    """Memory for one message at a time; made by a `SharedBufferPool`."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = np.frombuffer(memory, np.uint8)
        self._num_bytes = 0

    @property
    def capacity(self) -> int:
        """Bytes that fit in."""
        return len(self._memory)

    @property
    def ticket(self) -> BufferTicket:
        """For shards of this node."""
        return BufferTicket(self.path.name, self._num_bytes)

    @property
    def content(self) -> NDArray[np.uint8]:
        """The bytes themselves."""
        return self._memory[: self._num_bytes]

    def fill(self, pieces: Sequence[NDArray[np.uint8]], num_bytes: int) -> None:
        """Copy pieces of so many bytes together in."""
        self._num_bytes = num_bytes
        np.concatenate(pieces, out=self.content)


class SharedBufferPool:
    """The buffers of a sender: as many as it has had messages on the way at once, as large as the largest of them.

    Args:
        directory: Where the files are; the shards look there too.

    Raises:
        SlotError: There is no shared memory.
    """

    def __init__(self, directory: Path = SHARED_MEMORY) -> None:
        self._files = SharedFiles(_KIND, directory)
        self._free: list[SharedBuffer] = []
        self._mark = self._make(1)

    @property
    def mark(self) -> BufferTicket:
        """What a shard can read exactly if it shares this memory."""
        return self._mark.ticket

    def pack(self, pieces: Sequence[NDArray[np.uint8]]) -> SharedBuffer:
        """A buffer with these bytes.

        Raises:
            SlotError: The shared memory is full.
        """
        num_bytes = sum(piece.nbytes for piece in pieces)
        buffer = self._free.pop() if self._free else None
        if buffer is not None and buffer.capacity < num_bytes:
            self._files.remove(buffer.path)
            buffer = None
        if buffer is None:
            buffer = self._make(1 << (num_bytes - 1).bit_length())
        buffer.fill(pieces, num_bytes)
        return buffer

    def take_back(self, buffer: SharedBuffer) -> None:
        """Pack a buffer again, which nobody reads any more."""
        self._free.append(buffer)

    def close(self) -> None:
        """Remove the files."""
        self._files.close()

    def _make(self, capacity: int) -> SharedBuffer:
        return SharedBuffer(*self._files.make(capacity))


class OpenBuffers:
    """The buffers a shard has mapped.

    Args:
        directory: Where they are.
    """

    def __init__(self, directory: Path = SHARED_MEMORY) -> None:
        self._files = OpenFiles(_KIND, directory)

    def read(self, ticket: BufferTicket) -> NDArray[np.uint8]:
        """The bytes of a buffer, a view that its owner may overwrite once the message is acknowledged.

        Raises:
            SlotError: It cannot be opened here, or is smaller than the ticket says.
        """
        memory = self._files.map(ticket.name)
        if len(memory) < ticket.num_bytes:
            raise SlotError(f"{ticket.name} has {len(memory)} bytes, its ticket says {ticket.num_bytes}")
        return np.frombuffer(memory, np.uint8, ticket.num_bytes)


def make_buffer_pool(directory: Path = SHARED_MEMORY) -> SharedBufferPool | None:
    """A box, or None where there is no shared memory, which is logged; messages are then objects."""
    try:
        return SharedBufferPool(directory)
    except SlotError as error:
        logger.warning("blocks go through the object store: %s", error)
        return None
