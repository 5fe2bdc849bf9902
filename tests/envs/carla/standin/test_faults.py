"""Faults on demand, and what a server says of bad options, as processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from envs.carla.standin.faults import Faults, read_fault
from tests.envs.carla.standin.conftest import DELTA, VEHICLE
from tests.envs.carla.standin.processes import standin

carla = pytest.importorskip("carla", reason="needs worldfleet[carla]")


def test_faults_are_read_and_counted() -> None:
    faults = Faults((read_fault("drop@frame=5,count=2"), read_fault("delay@seconds=0.5")))
    assert [faults.happens("drop", frame) is not None for frame in (4, 5, 6, 7)] == [False, True, True, False]
    delay = faults.happens("delay", 1)
    assert delay is not None
    assert delay.seconds == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hung", r"unknown fault 'hung' \(did you mean 'hang'\?\)"),
        ("hang@fram=3", "unknown setting 'fram'"),
        ("hang@frame=x", "frame must be a number of at least 0, not 'x'"),
        ("delay@seconds=-1", "seconds must be a number"),
    ],
)
def test_bad_faults_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_fault(text)


def test_a_server_refuses_spawns_drops_collides_hangs_and_still_ends_with_its_parent() -> None:
    faults = ["refuse_spawn@count=1", "first_tick_collision@count=1", "hang@frame=100000"]
    with standin("--town", "oval", *(f"--fault={fault}" for fault in faults)) as server:
        client = carla.Client("127.0.0.1", server.port)
        client.set_timeout(60.0)
        world = client.get_world()
        settings = world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, DELTA
        world.apply_settings(settings)
        blueprint = world.get_blueprint_library().find(VEHICLE)
        place = world.get_map().get_spawn_points()[0]
        assert world.try_spawn_actor(blueprint, place) is None
        actor = world.spawn_actor(blueprint, place)
        sensor = world.spawn_actor(
            world.get_blueprint_library().find("sensor.other.collision"), carla.Transform(), attach_to=actor
        )
        hits: list[object] = []
        sensor.listen(hits.append)
        for _ in range(5):
            world.tick(60.0)
        time.sleep(0.2)
        assert len(hits) == 1
        sensor.stop()
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGCONT)
        world.tick(60.0)


def test_a_hung_server_does_not_answer_and_ends_with_its_parent() -> None:
    with standin("--fault", "hang@frame=1") as server:
        client = carla.Client("127.0.0.1", server.port)
        client.set_timeout(1.0)
        with pytest.raises(RuntimeError, match="time-out"):  # noqa: PT012
            for _ in range(600):  # the first free step hangs
                client.get_server_version()
                time.sleep(0.1)
        process = server.process
    assert process.returncode is not None


def test_a_server_that_dies_closes_its_connections() -> None:
    with standin("--fault", "die@frame=3") as server:
        assert server.process.wait(60.0) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--town", "ovla"], "unknown town 'ovla'"),
        (["--xodr", os.devnull], "this is no XML"),
        (["--port", "99999"], "--port must be in [0, 65535], not 99999"),
        (["--port", "two"], "invalid int value"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "envs.carla.standin", "--port", "0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "envs.carla.standin", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_what_is_no_call_ends_that_connection_only() -> None:
    with standin() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            stranger.settimeout(60.0)
            assert stranger.recv(16) == b""
        client = carla.Client("127.0.0.1", server.port)
        client.set_timeout(60.0)
        assert client.get_server_version() == "0.9.16"
