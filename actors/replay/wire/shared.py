"""Files in shared memory that one process owns and others of its node map.

Files are named by their process (`envs.scratch`), and whoever makes files removes those of this user's dead processes
first: a killed process leaves at most its own, until the next one starts.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from pathlib import Path

from envs.scratch import SHARED_MEMORY, owned_name, remove_abandoned


class SlotError(RuntimeError):
    """A file in shared memory cannot be made or opened here, or is not the one that was meant."""


class SharedFiles:
    """The files of this process; they go when it ends.

    Args:
        kind: What they are, a part of their names.
        directory: Where they are.
    """

    def __init__(self, kind: str, directory: Path = SHARED_MEMORY) -> None:
        remove_abandoned([directory])
        self._stem = directory / owned_name(kind)
        self._made = 0
        self._paths: set[Path] = set()
        self.close = weakref.finalize(self, _unlink, self._paths)  # also at the interpreter's end
        """Remove all; mappings stay readable."""

    def make(self, num_bytes: int) -> tuple[Path, mmap.mmap]:
        """A new file of zeros.

        Raises:
            SlotError: The shared memory is full or absent.
        """
        self._made += 1
        path = self._stem.with_name(f"{self._stem.name}-{self._made}")
        memory = _map_new(path, num_bytes)
        self._paths.add(path)
        return path, memory

    def remove(self, path: Path) -> None:
        """Remove one; its mappings stay readable."""
        self._paths.discard(path)
        path.unlink(missing_ok=True)


class OpenFiles:
    """Files of other processes, each mapped once.

    Args:
        kind: What they are; others are not opened.
        directory: Where they are.
        writable: Whether to map them for writing too.
    """

    def __init__(self, kind: str, directory: Path = SHARED_MEMORY, writable: bool = False) -> None:
        self._kind, self._directory, self._writable = kind, directory, writable
        self._memory: dict[str, mmap.mmap] = {}

    def map(self, name: str) -> mmap.mmap:
        """The content of the file `name`.

        Raises:
            SlotError: It is no file of this kind, or cannot be opened.
        """
        memory = self._memory.get(name)
        if memory is None:
            if not name.startswith(_prefix(self._kind)) or "/" in name:
                raise SlotError(f"{name!r} is not the name of a {self._kind}")
            for known in [known for known in self._memory if not (self._directory / known).exists()]:
                del self._memory[known]
            memory = self._memory[name] = _map_existing(self._directory / name, self._writable)
        return memory


def _prefix(kind: str) -> str:
    return f"worldfleet-{kind}-"


def _map_new(path: Path, num_bytes: int) -> mmap.mmap:
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
        raise SlotError(f"cannot make a file of {num_bytes} bytes in {path.parent}: {error}{hint}") from error


def _map_existing(path: Path, writable: bool) -> mmap.mmap:
    try:
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW)
        try:
            if not os.fstat(descriptor).st_size:
                raise SlotError(f"{path.name} is empty")
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SlotError(f"cannot open {path}: {error}") from error


def _unlink(paths: set[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    paths.clear()
