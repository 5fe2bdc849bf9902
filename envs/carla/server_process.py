"""A server that the environment starts: the stand-in, or CARLA itself; guarded, so that it never outlives its user."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from envs.carla.client import ServerLost
from envs.carla.config import CarlaConfig
from envs.carla.ports import PortClaim, claim_block, listens

GUARD = Path(__file__).with_name("guard.py")
STANDIN = "import worldfleet; from envs.carla.standin.__main__ import main; main()"
"""Program of the stand-in; our packages go by their own names once worldfleet is imported."""
_LAST_WORDS = 2000
_KILL_SECONDS = 10.0


class ServerProcess:
    """One server in a session of its own; `kill` ends it with all that it started.

    Args:
        command: Program and arguments.
        ports: What it listens on, given back by `kill`; None where it says its port itself.
    """

    def __init__(self, command: list[str], ports: PortClaim | None = None) -> None:
        self._ports = ports
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if ports is None else subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def session(self) -> int:
        """Id of the session of all its processes."""
        return self._process.pid

    def processes(self) -> list[int]:
        """Those of the session, the guard included."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    if int(_stat(folder)[3]) == self.session:
                        found.append(int(folder.name))
        return found

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def first_line(self, seconds: float) -> str:
        """The first line of its output.

        Raises:
            ServerLost: It ends first, or says nothing in time.
        """
        output = self._process.stdout
        assert output is not None
        deadline, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(output.fileno(), 4096) if ready else b""
            if not piece:
                self._process.poll()
                raise ServerLost(self.last_words() or f"said nothing for {seconds:g} s")
            line += piece
        return line.decode()

    def last_words(self) -> str:
        """The last line of what it wrote to its standard error."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LAST_WORDS))
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def resident_megabytes(self) -> float:
        """Memory of all its processes."""
        pages = 0
        for number in self.processes():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{number}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self) -> None:
        """End it now, stopped or not; a second call does nothing."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # the guard ends the rest
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            for number in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._ports is not None:
            self._ports.release()


def _stat(folder: Path) -> list[str]:
    """The fields of /proc/N/stat after the name: state, parent, group, session, ..."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def start_standin(config: CarlaConfig, town: str) -> tuple[ServerProcess, int]:
    """The stand-in on a port that the system chooses; returns the port too.

    Raises:
        ValueError: It refuses its town, file or seed.
        ServerLost: It does not start in time.
    """
    where = ["--xodr", config.xodr] if config.xodr is not None else ["--town", town]
    command = [sys.executable, "-c", STANDIN, "--port", "0", "--seed", str(config.server_seed)]
    server = ServerProcess([*command, *where])
    try:
        said: dict[str, Any] = json.loads(server.first_line(config.start_seconds))
        return server, int(said["port"])
    except ServerLost as lost:
        text = str(lost)
        server.kill()
        if "error: " in text:
            raise ValueError(text.partition("error: ")[2]) from None
        raise ServerLost(f"the stand-in server does not start: {text}") from None
    except BaseException:
        server.kill()
        raise


def start_program(config: CarlaConfig) -> tuple[ServerProcess, int]:
    """CARLA itself, on a block of ports of its own; returns the first port too.

    Raises:
        ValueError: There is no such program.
        ServerLost: It does not listen in time.
    """
    assert config.program is not None
    program = Path(config.program)
    if not os.access(program, os.X_OK) or program.is_dir():
        raise ValueError(f"program {config.program!r} is no file that can be run")
    ports = claim_block(config.port or 2000)
    try:
        server = ServerProcess(program_command(config, ports.port), ports)
    except BaseException:
        ports.release()
        raise
    try:
        if not listens("127.0.0.1", ports.port, config.start_seconds, server.has_ended):
            words = server.last_words()
            raise ServerLost(f"{config.program} does not listen on port {ports.port}{f': {words}' if words else ''}")
        return server, ports.port
    except BaseException:
        server.kill()
        raise


def program_command(config: CarlaConfig, port: int) -> list[str]:
    """Program and arguments; without a camera nothing is drawn at all."""
    assert config.program is not None
    drawing = "-RenderOffScreen" if "camera" in config.observation else "-nullrhi"
    fixed = [config.program, drawing, "-nosound", f"-carla-rpc-port={port}", f"-carla-streaming-port={port + 1}"]
    return [*fixed, *shlex.split(config.program_options)]
