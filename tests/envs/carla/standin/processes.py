"""Servers as processes, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

TIMEOUT = 60.0
"""Seconds that a call may take on a busy machine."""


@dataclass(frozen=True)
class Running:
    """A server that listens: what it said, and its process."""

    port: int
    pid: int
    line: dict[str, Any]
    process: subprocess.Popen[str]


@contextmanager
def standin(*options: str) -> Iterator[Running]:
    """A stand-in server on a free port; it is gone afterwards."""
    command = [sys.executable, "-m", "envs.carla.standin", "--port", "0", "--parent-watch", *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        text = process.stdout.readline()
        assert text, process.stderr.read()
        line = json.loads(text)
        yield Running(line["port"], line["pid"], line, process)
    finally:
        process.stdin.close()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()
