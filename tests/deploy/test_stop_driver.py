"""The preStop hook: finds drivers by their command line, interrupts them and waits."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "stop_driver.py"
MODULE: dict[str, Any] = runpy.run_path(str(SCRIPT))


def fake_process(proc: Path, pid: int, *words: str) -> None:
    entry = proc / str(pid)
    entry.mkdir()
    (entry / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")


def test_only_drivers_are_found(tmp_path: Path) -> None:
    fake_process(
        tmp_path, 10, "/opt/worldfleet/bin/python", "/opt/worldfleet/bin/worldfleet", "train", "--algo", "pets"
    )
    fake_process(tmp_path, 11, "/bin/sh", "-c", "worldfleet train --algo pets")
    fake_process(tmp_path, 12, "/opt/bin/python", "/opt/bin/worldfleet", "eval")
    fake_process(tmp_path, 13, "ray::RolloutActor")
    (tmp_path / "14").mkdir()
    (tmp_path / "meminfo").write_text("")
    assert MODULE["find_drivers"](tmp_path) == [10]


def launch_driver(tmp_path: Path, on_signal: str) -> subprocess.Popen[str]:
    """A process that looks like a driver and is interrupted as `on_signal` says."""
    program = tmp_path / "worldfleet"
    program.write_text(
        textwrap.dedent(f"""
        import signal, sys, time
        def handle(number, frame):
            {on_signal}
        signal.signal(signal.SIGTERM, handle)
        sys.stdout.write("ready\\n")
        sys.stdout.flush()
        while True:
            time.sleep(0.05)
        """)
    )
    process = subprocess.Popen([sys.executable, str(program), "train"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def only(tmp_path: Path, pid: int) -> Path:
    """A view of /proc that shows one process, so that no other driver of this machine is touched."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / str(pid)).symlink_to(f"/proc/{pid}")
    return proc


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_a_driver_is_stopped_and_waited_for(tmp_path: Path) -> None:
    process = launch_driver(tmp_path, "time.sleep(0.3); sys.exit(143)")
    try:
        assert MODULE["stop"](only(tmp_path, process.pid), 10.0) is True
        assert process.wait(5) == 143
    finally:
        process.kill()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_a_driver_that_stays_is_reported(tmp_path: Path) -> None:
    process = launch_driver(tmp_path, "pass")
    try:
        assert MODULE["stop"](only(tmp_path, process.pid), 0.3) is False
        assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)


def test_nothing_to_stop_is_success(tmp_path: Path) -> None:
    assert MODULE["stop"](tmp_path, 0.0) is True
