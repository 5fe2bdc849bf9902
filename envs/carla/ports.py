"""Ports of servers on this machine: blocks of a few, one block to an environment.

A block belongs to a process as long as that holds a lock on the block's file; the lock ends with the process, however
that ends. Whether a port is free is found by binding it, as other programs know nothing of the locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BLOCK = 8
"""Ports from one block to the next: the calls, two of streams, one of a TrafficManager, and room."""
TRAFFIC_MANAGER = 4
"""Of a block, the port of the TrafficManager."""
_BLOCKS = 256


class PortClaim:
    """A port that no other environment on this machine takes, until `release`."""

    def __init__(self, port: int, handle: int) -> None:
        self.port = port
        self._handle: int | None = handle

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def claim_block(base: int, directory: Path | None = None) -> PortClaim:
    """The first block of free ports from `base` on.

    Raises:
        ValueError: There is none.
    """
    for port in range(base, min(base + _BLOCKS * BLOCK, 65536 - BLOCK), BLOCK):
        claim = claim_port(port, directory)
        if claim is None:
            continue
        if all(is_free(port + offset) for offset in range(TRAFFIC_MANAGER + 1)):
            return claim
        claim.release()
    raise ValueError(f"no {TRAFFIC_MANAGER + 1} free ports in a row from {base} on, in steps of {BLOCK}")


def claim_first(ports: list[int], what: str, directory: Path | None = None) -> PortClaim:
    """The first of the ports that no other environment has.

    Args:
        ports: Of servers that run already.
        what: Them, for errors.
        directory: Of the locks; by default one of this user's.

    Raises:
        ValueError: All are taken.
    """
    for port in ports:
        if (claim := claim_port(port, directory)) is not None:
            return claim
    raise ValueError(f"{what}: each serves one environment, and all are taken; start more, or set fewer environments")


def claim_port(port: int, directory: Path | None = None) -> PortClaim | None:
    """This port, None if another environment has it."""
    directory = directory or Path(tempfile.gettempdir()) / f"worldfleet-carla-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(directory / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return PortClaim(port, handle)


def is_free(port: int) -> bool:
    """Whether a server could listen there on any address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("", port))
            return True
    return False


def listens(host: str, port: int, seconds: float, gone: Callable[[], bool] = lambda: False) -> bool:
    """Whether something listens there within `seconds`; asks every tenth of a second, until `gone` says stop."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=max(seconds, 0.5)):
            return True
        if time.monotonic() >= deadline or gone():
            return False
        time.sleep(0.1)
