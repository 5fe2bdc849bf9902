"""The end of the process when it cannot wait for anything: nothing of its own keeps running."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True)
class Saved:
    """What a stopped run leaves: the checkpoint that it continues from, and what that does not hold."""

    checkpoint: str | None  # name in the run directory's `checkpoints`, None if there is none yet
    checkpoint_step: int  # environment step of it
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Process:
    """A process; another one that is given its number later is not the same."""

    pid: int
    parent: int
    started: int  # clock ticks since boot
    state: str  # a letter as `ps` prints it


def read_process(pid: int) -> Process | None:
    """What is known of a process; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), int(fields[19]), fields[0])


def descendants() -> list[Process]:
    """The processes that descend from this one."""
    table = [read_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    children: dict[int, list[Process]] = {}
    for process in table:
        if process is not None:
            children.setdefault(process.parent, []).append(process)
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += [process.pid for process in below]
    return found


def kill(processes: list[Process]) -> None:
    """Kill those of the processes that are still there; SIGKILL ends a stopped one, too."""
    for process in processes:
        now = read_process(process.pid)
        if now is not None and now.started == process.started:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)


def end_now(code: int, message: str | None = None) -> NoReturn:
    """End this process and all that it started, without waiting for any of them.

    Args:
        code: Exit code.
        message: The one line that says why.
    """
    with suppress(OSError):
        if message is not None:
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live view may have hidden it
            sys.stderr.write(f"{show_cursor}worldfleet: error: {' '.join(message.split())}\n")
            sys.stderr.flush()
        kill(descendants())
    os._exit(code)
