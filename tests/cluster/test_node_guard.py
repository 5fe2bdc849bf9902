"""When the loss of a process of Ray ends the run, and what is seen of one."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cluster import node_guard as module
from cluster.node_guard import NodeGuard, condition_of


def test_a_dead_process_ends_the_run_at_once_and_one_that_stands_still_later() -> None:
    now = [0.0]
    guard = NodeGuard(lambda reason: None, lambda: now[0])
    assert guard.judge("the raylet", "well") is None
    assert guard.judge("the raylet", "dead") == "the raylet of this node has died"
    guard.judge("the raylet", "well")
    for part, condition, said in (
        ("Ray's GCS", "stopped", "Ray's GCS of this node has stood still for 30 s"),
        ("the raylet", "away", "the raylet of this node is away for 30 s"),
    ):
        start = now[0]
        while (reason := guard.judge(part, condition)) is None:
            now[0] += 1.0
        assert (reason, now[0] - start) == (said, 30.0)
    guard.judge("Ray's GCS", "well")  # it came back
    assert guard.judge("Ray's GCS", "away") is None


def test_the_condition_of_a_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert condition_of(process.pid) == "well"
    process.send_signal(signal.SIGSTOP)
    while condition_of(process.pid) == "well":  # the signal is on its way
        pass
    assert condition_of(process.pid) == "stopped"
    process.kill()
    while condition_of(process.pid) != "dead":
        pass
    process.wait()
    assert condition_of(process.pid) == "dead"


def test_what_does_not_listen_is_away(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    assert module._answers(socket.AF_UNIX, address) == "away"
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(address)
        assert module._answers(socket.AF_UNIX, address) == "away"
        server.listen()
        assert module._answers(socket.AF_UNIX, address) == "well"


def test_the_guard_tells_once_and_not_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    conditions = {"the raylet": lambda: "well", "Ray's GCS": lambda: "dead"}
    monkeypatch.setattr(module, "_checks", lambda: conditions)
    told: list[str] = []
    lost = threading.Event()

    def tell(reason: str) -> None:
        told.append(reason)
        lost.set()

    with NodeGuard(tell):
        assert lost.wait(60.0)
    assert told == ["Ray's GCS of this node has died"]
