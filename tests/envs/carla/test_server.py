"""Servers: ports, versions, silent ones, and that nothing of them is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

pytest.importorskip("carla")

from envs.carla import versions
from envs.carla.client import ServerLost, connect
from envs.carla.config import CarlaConfig
from envs.carla.ports import BLOCK, claim_block, claim_first, claim_port, is_free
from envs.carla.sensors import Frames
from envs.carla.server_process import ServerProcess, program_command
from envs.carla.simulation import asking
from envs.carla.supervisor import Supervisor
from envs.registry import make_env

SLEEPER = [sys.executable, "-S", "-c", "import time; print('{}', flush=True); time.sleep(600)"]


class FakeServer:
    """Answers the question for the version, and counts what else it is asked."""

    def __init__(self, version: str) -> None:
        self.asked: list[str] = []
        self._version = version
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        unpacker = msgpack.Unpacker()
        while data := connection.recv(4096):
            unpacker.feed(data)
            for _, number, method, _ in unpacker:
                self.asked.append(method)
                connection.sendall(msgpack.packb([1, number, None, [[1, self._version]]]))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nothing listens on, held so that nothing else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("version", "reason"),
    [("0.9.15", "the numbers of its messages differ"), ("0.10.0", "runs on Unreal 5"), ("", "no version")],
)
def test_a_server_of_another_version_is_refused_before_it_is_asked_for_anything(version: str, reason: str) -> None:
    server = FakeServer(version)
    with pytest.raises(ValueError, match=reason):
        make_env("carla_lane", port=server.port, timeout_seconds=5.0)
    assert server.asked == ["version"]
    server.close()


def test_a_package_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "SUPPORTED", "0.9.99")
    with pytest.raises(ValueError, match=r"the carla package installed is 0\.9\.16, the environments speak 0\.9\.99"):
        make_env("carla_lane")


def test_no_server_is_one_line(closed_port: int) -> None:
    with pytest.raises(ValueError, match=f"no CARLA server listens at 127.0.0.1:{closed_port}"):
        make_env("carla_lane", port=closed_port, timeout_seconds=0.2)


def test_something_else_that_listens_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServerLost, match="does not answer as a CARLA server"):
            connect("127.0.0.1", port, 0.3, 0.3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"town": "ovla"}, "unknown town 'ovla' .did you mean 'oval'"),
        ({"xodr": "/nowhere/a.xodr"}, "xodr '/nowhere/a.xodr' cannot be read"),
        ({"program": "/nowhere/CarlaUE4.sh"}, "'/nowhere/CarlaUE4.sh' is no file that can be run"),
    ],
)
def test_what_a_server_cannot_start_from_is_one_line(options: dict[str, str], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make_env("carla_lane", **options)


def test_a_broken_xodr_is_one_line_before_a_server_starts(tmp_path: Path) -> None:
    broken = tmp_path / "broken.xodr"
    broken.write_text("<OpenDRIVE><road id='1'/></OpenDRIVE>")
    with pytest.raises(ValueError, match="broken: road 1 has no planView/geometry"):
        make_env("carla_lane", xodr=str(broken))


def test_a_program_that_dies_or_is_silent_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    program = tmp_path / "CarlaUE4.sh"
    program.write_text("#!/bin/sh\necho no GPU >&2\nexit 3\n")
    program.chmod(0o755)
    supervisor = Supervisor(CarlaConfig(program=str(program), port=42000, start_seconds=5.0), "oval")
    with pytest.raises(ValueError, match="does not listen on port 42000: no GPU"):
        supervisor.start()
    claim = claim_port(42000)  # given back
    assert claim is not None
    claim.release()


def test_the_program_draws_only_for_a_camera() -> None:
    command = program_command(CarlaConfig(program="a.sh", program_options="-quality-level=Low"), 2008)
    ports = ["-carla-rpc-port=2008", "-carla-streaming-port=2009"]
    assert command == ["a.sh", "-nullrhi", "-nosound", *ports, "-quality-level=Low"]
    assert "-RenderOffScreen" in program_command(CarlaConfig(program="a.sh", observation=("camera",)), 2000)


def test_blocks_of_ports_are_claimed_once_and_skip_what_is_taken(tmp_path: Path) -> None:
    base = 43000
    with socket.socket() as taken:
        taken.bind(("", base + 1))
        taken.listen()
        assert not is_free(base + 1)
        first, second = claim_block(base, tmp_path), claim_block(base, tmp_path)
        assert (first.port, second.port) == (base + BLOCK, base + 2 * BLOCK)
        first.release()
        assert claim_block(base, tmp_path).port == base + BLOCK


def test_servers_of_the_user_serve_one_environment_each(tmp_path: Path) -> None:
    held = claim_first([44000, 44008], "2 servers", tmp_path)
    assert held.port == 44000
    other = claim_first([44000, 44008], "2 servers", tmp_path)
    assert other.port == 44008
    with pytest.raises(ValueError, match="2 servers: each serves one environment, and all are taken"):
        claim_first([44000, 44008], "2 servers", tmp_path)
    held.release()
    assert claim_first([44000, 44008], "2 servers", tmp_path).port == 44000


def test_killing_a_server_collects_all_its_processes_also_stopped_ones() -> None:
    server = ServerProcess(SLEEPER)
    assert server.first_line(20.0) == "{}\n"
    processes = server.processes()
    assert len(processes) == 2
    assert server.resident_megabytes() > 1.0
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    server.kill()
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    server.kill()


def test_a_server_does_not_outlive_the_process_that_started_it() -> None:
    program = (
        "import os, sys; from envs.carla.server_process import ServerProcess\n"
        f"server = ServerProcess({SLEEPER!r}); server.first_line(20.0)\n"
        "print(*server.processes(), flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    processes = [int(word) for word in run.stdout.split()]
    assert len(processes) == 2, run.stderr
    deadline = time.monotonic() + 10.0
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_runs(process) for process in processes)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_frame_is_matched_by_number_and_waited_for_no_longer_than_said() -> None:
    class Data:
        def __init__(self, frame: int) -> None:
            self.frame = frame

    frames = Frames()
    frames.put(Data(6))
    frames.put(Data(7))
    assert frames.get(6, 0.0).frame == 6
    assert frames.get(8, 0.01) is None
    threading.Timer(0.02, frames.put, [Data(8)]).start()
    assert frames.get(8, 5.0).frame == 8


def test_what_the_client_raises_for_a_silent_server_is_a_lost_server() -> None:
    with pytest.raises(ServerLost, match="time-out of 10ms"), asking():
        raise RuntimeError("time-out of 10ms\nwhile waiting")
    with pytest.raises(ValueError, match="else"), asking():
        raise ValueError("else")
