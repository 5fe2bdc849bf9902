"""Deaths, hangs and exceptions of a function in its own process are results."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time

from envs.testing.process import Channel, Outcome, Stop, run


def act(channel: Channel, kind: str) -> None:
    """Say something, then end in one of several ways."""
    channel.send("begun")
    channel.place(f"doing {kind}")
    if kind == "raise":
        raise RuntimeError("broken\nin two lines")
    if kind == "exit":
        sys.stderr.write("out of luck\n")
        sys.stderr.flush()
        os._exit(7)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "hang":
        time.sleep(1000)
    if kind == "leave":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    channel.send("done")


def outcome(kind: str, seconds: float = 60.0) -> Outcome:
    """How `act` ended, once it has begun."""
    result = run(act, (kind,), seconds)
    assert result.messages[0] == "begun"
    return result


def test_a_function_that_returns_has_no_fault() -> None:
    result = outcome("nothing")
    assert (result.messages, result.fault, result.left) == (["begun", "done"], None, False)


def test_exceptions_and_deaths_say_where() -> None:
    result = outcome("raise")
    assert result.fault == "raises RuntimeError: broken in two lines"
    assert result.where.startswith("doing raise, test_process.py:")
    result = outcome("exit")
    assert result.fault == "the process dies with exit code 7 (out of luck)"
    assert result.where == "doing exit"
    result = outcome("segfault")
    assert result.fault == "the process dies with signal SIGSEGV"
    assert result.where.startswith("doing segfault, ")
    assert result.where.endswith("in string_at")


def test_a_hang_ends_at_its_limit_and_shows_the_line() -> None:
    result = outcome("hang", 1.0)
    assert result.fault == "hangs: no answer for 1 s"
    assert result.where.startswith("doing hang, test_process.py:")
    assert result.where.endswith("in act")


def test_processes_that_are_left_behind_are_told_and_killed() -> None:
    assert outcome("leave").left


def test_a_stop_ends_the_process() -> None:
    stop = Stop()
    threading.Timer(1.0, stop.set).start()
    assert run(act, ("hang",), 60.0, stop).fault is None
