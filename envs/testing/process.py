"""Runs a function in a process of its own, so that its death or hang is a result like any other."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from envs.scratch import scratch_folder

STARTUP_SECONDS = 120.0
"""How long a process may take to start Python and import the function."""
_POLL_SECONDS = 0.2
_STACK_SECONDS = 2.0
"""How long a process that hangs may take to write its stack."""
_CLOSE_SECONDS = 5.0
_PLACE_BYTES = 256
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


@dataclass(frozen=True)
class Outcome:
    """How a function's process ended."""

    messages: list[Any] = field(default_factory=list)  # what it sent, in order
    error: tuple[str, str] | None = None  # type and text of an exception
    death: str | None = None  # how the process ended before its function did
    hung: bool = False  # beyond its time limit, and killed
    left: bool = False  # it left processes behind, which were killed
    where: str = ""  # what it was doing at an exception, death or hang
    output: str = ""  # the last line it wrote to stdout or stderr before a death
    seconds: float = 0.0

    @property
    def fault(self) -> str | None:
        """What went wrong in words, None if nothing did."""
        if self.hung:
            return f"hangs: no answer for {self.seconds:.0f} s"
        if self.death is not None:
            return f"the process dies with {self.death}" + (f" ({self.output})" if self.output else "")
        if self.error is not None:
            return f"raises {self.error[0]}" + (f": {self.error[1]}" if self.error[1] else "")
        return None


class Channel:
    """A function's way to the process that waits for it."""

    def __init__(self, connection: Connection, place: int) -> None:
        self._connection = connection
        self._place = place

    def send(self, message: Any) -> None:
        """Hand over a picklable value now; it is kept whatever happens later."""
        self._connection.send(("message", message))

    def place(self, text: str) -> None:
        """Say what is done next, for the report of a death or a hang; about a microsecond."""
        os.pwrite(self._place, text.encode()[:_PLACE_BYTES].ljust(_PLACE_BYTES), 0)


Stop = threading.Event
"""Set from another thread, it ends the processes that were given it."""


def run(function: Callable[..., None], arguments: tuple[Any, ...], seconds: float, stop: Stop | None = None) -> Outcome:
    """Call `function(channel, *arguments)` in a spawned process, and end the process and all that it started.

    Args:
        function: Importable by its module and name.
        arguments: Picklable.
        seconds: Time limit of the call; starting Python does not count.
        stop: Ends the process when it is set; what was sent until then is the outcome.
    """
    with scratch_folder("check") as folder:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, str(folder), function, arguments))
        process.start()
        theirs.close()
        try:
            return _attend(process, ours, folder, seconds, stop or Stop())
        finally:
            _kill_group(process.pid)
            process.kill()
            process.join()
            ours.close()


def _attend(process: Any, connection: Connection, folder: Path, seconds: float, stop: Stop) -> Outcome:
    """Collect what the process says until it is done, dead or out of time."""
    messages: list[Any] = []
    began = time.monotonic()
    deadline = began + STARTUP_SECONDS
    while True:
        alive = process.is_alive()
        try:
            while connection.poll():
                kind, value = connection.recv()
                if kind == "started":
                    began = time.monotonic()
                    deadline = began + seconds
                elif kind == "message":
                    messages.append(value)
                else:
                    error, where = value
                    left = _finish(process)
                    where = ", ".join(filter(None, (_place(folder), where))) if error else ""
                    return Outcome(messages, error, left=left, where=where, seconds=time.monotonic() - began)
        except (EOFError, OSError):
            process.join(_POLL_SECONDS)
            alive = process.is_alive()
        elapsed = time.monotonic() - began
        if stop.is_set():
            return Outcome(messages, seconds=elapsed)
        if alive and time.monotonic() > deadline:
            os.kill(process.pid, signal.SIGUSR1)  # writes its stack
            written = time.monotonic() + _STACK_SECONDS
            while not _frame(folder) and time.monotonic() < written:
                time.sleep(0.05)
            return Outcome(messages, hung=True, where=_crash_place(folder), seconds=elapsed)
        if not alive:
            death, output = _death(process), _last_line(folder)
            return Outcome(messages, death=death, where=_crash_place(folder), output=output, seconds=elapsed)
        wait([connection], _POLL_SECONDS)


def _finish(process: Any) -> bool:
    """Wait for a process that is done; returns whether others of its group are still there."""
    process.join(_CLOSE_SECONDS)
    if process.is_alive():
        return False
    return _kill_group(process.pid)


def _kill_group(group: int | None) -> bool:
    """Kill what is left of a process group; returns whether there was anything."""
    assert group is not None, "the process has been started"
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _death(process: Any) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _place(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "place").read_text(errors="replace").strip()
    return ""


def _crash_place(folder: Path) -> str:
    """What a process was doing when it died or was killed, with the line of Python if that is known."""
    return ", ".join(filter(None, (_place(folder), _frame(folder))))


def _frame(folder: Path) -> str:
    """The innermost Python frame that faulthandler wrote down, as file:line."""
    with contextlib.suppress(OSError):
        if match := _FRAME.search((folder / "stack").read_text(errors="replace")):
            return f"{Path(match[1]).name}:{match[2]} in {match[3]}"
    return ""


def _last_line(folder: Path) -> str:
    with contextlib.suppress(OSError):
        lines = (folder / "output").read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""
    return ""


def _child(connection: Connection, folder: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The process: a session of its own, output to a file, and the stack of a crash or hang to another."""
    os.setsid()
    output = os.open(f"{folder}/output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    place = os.open(f"{folder}/place", os.O_RDWR | os.O_CREAT)
    stack = open(f"{folder}/stack", "w")  # noqa: SIM115 (faulthandler keeps it to the end)
    faulthandler.enable(stack)
    faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
    connection.send(("started", None))
    try:
        function(Channel(connection, place), *arguments)
        answer: Any = (None, "")
    except Exception as error:  # noqa: BLE001 (reported to the process that waits)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        answer = (
            (type(error).__name__, " ".join(str(error).split())),
            f"{Path(frame.filename).name}:{frame.lineno}",
        )
    connection.send(("done", answer))
