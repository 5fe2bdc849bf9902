"""Temporary files and folders whose names say which process they belong to.

    /tmp/worldfleet-token-1000-4026531836-8289-64517-736575ac
    /dev/shm/worldfleet-slot-1000-4026531836-8213-64124-2be93479-3
               kind, user, namespace of process ids, process, when it began, a random number

Their process removes them when it ends. What a killed process leaves is removed by the next one of the same user that
looks: a name tells whether its process is alive, also when its number has been given to another one since.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
"""A file system in memory."""

_NAME = re.compile(r"worldfleet-(?P<kind>[a-z]+)-(?P<user>\d+)-(?P<key>\d+-(?P<pid>\d+)-[0-9a-z]+)-[0-9a-f]+(-\d+)?")


def owned_name(kind: str) -> str:
    """A name that no other file has, for a file of this process.

    Args:
        kind: What it is, in lower case letters.
    """
    return f"worldfleet-{kind}-{os.getuid()}-{_process_key(os.getpid())}-{secrets.token_hex(4)}"


@contextmanager
def scratch_folder(kind: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder that only this user can look into, removed at the end.

    Args:
        kind: What it is for, in lower case letters.
        parent: Where it is, the system's temporary folder by default.
    """
    path = (parent or Path(tempfile.gettempdir())) / owned_name(kind)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def scratch_places() -> tuple[Path, ...]:
    """Where such files and folders are."""
    return Path(tempfile.gettempdir()), SHARED_MEMORY


def owned_files(places: Sequence[Path] | None = None) -> list[tuple[Path, bool]]:
    """The files and folders of this user's processes of this machine or container, and whether each process is alive.

    Args:
        places: Where to look, `scratch_places` by default.
    """
    found = []
    for place in scratch_places() if places is None else places:
        for path in sorted(place.glob("worldfleet-*")):
            name = _NAME.fullmatch(path.name)
            if name is None or name["user"] != str(os.getuid()) or not name["key"].startswith(f"{_pid_namespace()}-"):
                continue
            if _owner(path) == os.getuid():
                found.append((path, name["key"] == _process_key(int(name["pid"]))))
    return found


def remove_abandoned(places: Sequence[Path] | None = None) -> list[Path]:
    """Remove what this user's dead processes left; what was removed.

    Args:
        places: Where to look, `scratch_places` by default.
    """
    removed = []
    for path, alive in owned_files(places):
        if alive:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if _owner(path) is None:
            removed.append(path)
    return removed


def _owner(path: Path) -> int | None:
    """The user a file belongs to, None if there is none."""
    try:
        return path.lstat().st_uid
    except OSError:
        return None


def _pid_namespace() -> str:
    """Tells processes apart that have equal ids in different containers."""
    try:
        return "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    except OSError:
        return "0"


def _process_key(pid: int) -> str:
    """Name of a living process that no other process ever has; another one if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{_pid_namespace()}-{pid}-gone"
    if fields[0] in "ZX":  # it has ended and waits for its parent to notice
        return f"{_pid_namespace()}-{pid}-gone"
    return f"{_pid_namespace()}-{pid}-{fields[19]}"  # field 22: start time
