"""Writing files that survive a crash, and the lock of a folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

Bytes: TypeAlias = "bytes | memoryview[int]"
LOCK = "lock"
_MOST_PARTS = 512  # buffers of one call, below every system's IOV_MAX
_LOCK_SECONDS = 10.0  # a killed predecessor may take this long to vanish


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


class FolderLock:
    """Keeps other processes from writing a folder; the system releases it when the process dies.

    Args:
        directory: The folder; it must exist.
        patience: Seconds to wait for a predecessor to die.

    Raises:
        ValueError: Another process holds the folder.
    """

    def __init__(self, directory: Path, patience: float = _LOCK_SECONDS) -> None:
        self._file = os.fdopen(os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", 0)
        deadline = time.monotonic() + patience
        while not self._taken():
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

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
