"""Writing files that survive a crash, and the lock of a folder."""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = "bytes | memoryview[int]"
LOCK = "lock"
_MOST_PARTS = 512  # buffers of one call, below every system's IOV_MAX
_ALIGNMENT = 4096  # of direct writes: a multiple of every disk's block
_DIRECT_BYTES = 1 << 19  # less is written through the page cache
LOCK_SECONDS = 10.0  # a killed predecessor may take this long to vanish


def write_all(descriptor: int, parts: Iterable[Bytes]) -> None:
    """Write the buffers one behind the other, whatever their number and size."""
    left = deque(memoryview(part) for part in parts if len(part))
    while left:
        done = os.writev(descriptor, [left[index] for index in range(min(_MOST_PARTS, len(left)))])
        while left and done >= len(left[0]):
            done -= len(left.popleft())
        if done:
            left[0] = left[0][done:]


def sync_folder(directory: Path) -> None:
    """Make creations, renames and removals in a folder durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, parts: Sequence[Bytes]) -> None:
    """Write a whole file so that after a crash there is the old one or the new one.

    Raises:
        OSError: The disk is full, say; the old file is as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        try:
            write_all(descriptor, parts)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


class AppendFile:
    """A new file that grows at its end.

    Large pieces go past the page cache where the file system allows it (O_DIRECT): their pages would only push
    out others, and to fill fresh ones costs more than the disk. Their unaligned ends are written as usual.

    Args:
        path: The file; an existing one is emptied.
        buffer: Where large pieces are gathered; its size is a multiple of the alignment.
    """

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self._file = FileIO(path, "w")
        self._buffer = np.frombuffer(buffer, np.uint8)
        self._direct: FileIO | None = None
        with suppress(OSError):  # a file system without direct writes
            self._direct = FileIO(os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC), "w")

    def append(self, offset: int, parts: Sequence[Bytes]) -> None:
        """Write the buffers one behind the other from `offset` on, the end of the file.

        Raises:
            OSError: Not all was written.
        """
        total = sum(len(part) for part in parts)
        begin = -(-offset // _ALIGNMENT) * _ALIGNMENT
        end = (offset + total) // _ALIGNMENT * _ALIGNMENT
        self._file.seek(offset)
        if self._direct is None or end - begin < _DIRECT_BYTES:
            write_all(self._file.fileno(), parts)
            return
        left = deque(memoryview(part) for part in parts if len(part))
        write_all(self._file.fileno(), _take(left, begin - offset))
        while begin < end:
            count = 0
            for part in _take(left, min(len(self._buffer), end - begin)):
                self._buffer[count : count + len(part)] = np.frombuffer(part, np.uint8)
                count += len(part)
            begin = self._write_direct(self._direct, self._buffer[:count], begin)
        self._file.seek(end)
        write_all(self._file.fileno(), left)

    def _write_direct(self, file: FileIO, content: NDArray[np.uint8], offset: int) -> int:
        """Write a multiple of the alignment; the offset behind it."""
        done = 0
        with suppress(OSError):  # beyond a limit, or refused after all: the usual way succeeds or says why not
            done = os.pwrite(file.fileno(), content.data, offset) // _ALIGNMENT * _ALIGNMENT
        if done < len(content):
            self._file.seek(offset + done)
            write_all(self._file.fileno(), [content[done:].data])
        return offset + len(content)

    def truncate(self, size: int) -> None:
        """Cut the file."""
        self._file.truncate(size)

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._direct is not None:
            self._direct.close()


def _take(left: deque[memoryview[int]], count: int) -> list[memoryview[int]]:
    """Remove `count` bytes from the front of a queue of buffers."""
    taken = []
    while count:
        part = left.popleft()
        if len(part) > count:
            left.appendleft(part[count:])
            part = part[:count]
        taken.append(part)
        count -= len(part)
    return taken


@contextmanager
def unchanged(folders: Iterable[Path], patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Within the context, nobody writes the folders; others may read them too.

    Args:
        folders: Folders of a `FolderLock`; one that nobody has locked yet is taken as it is.
        patience: Seconds to wait for a process that writes one to die.

    Raises:
        ValueError: A process writes one.
    """
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        for lock in (folder / LOCK for folder in folders if (folder / LOCK).exists()):
            file = stack.enter_context(lock.open("rb"))
            while not _locked(file, fcntl.LOCK_SH):
                if time.monotonic() > deadline:
                    raise ValueError(f"{lock.parent} is in use: a replay is read when its run has ended")
                time.sleep(0.05)
        yield


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FolderLock:
    """Keeps other processes from writing a folder; the system releases it when the process dies.

    Args:
        directory: The folder; it must exist.
        patience: Seconds to wait for a predecessor to die, by default `LOCK_SECONDS`.

    Raises:
        ValueError: Another process holds the folder.
    """

    def __init__(self, directory: Path, patience: float | None = None) -> None:
        self._file = os.fdopen(os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", 0)
        deadline = time.monotonic() + (LOCK_SECONDS if patience is None else patience)
        while not _locked(self._file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                owner = self._file.read(20).decode(errors="replace").strip()
                self._file.close()
                raise ValueError(f"{directory} is in use: process {owner or 'unknown'} writes it")
            time.sleep(0.05)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have the folder."""
        self._file.close()
