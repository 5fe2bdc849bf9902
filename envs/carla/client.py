"""The connection to a server: found, asked for its version, and only then used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import carla

from envs.carla.ports import listens
from envs.carla.versions import check_client, check_server

WORKER_THREADS = 1
"""Threads of a client that read streams."""


class ServerLost(RuntimeError):
    """A server died, or did not answer in time; its client is of no use any more."""


def connect(
    host: str, port: int, timeout_seconds: float, wait_seconds: float, gone: Callable[[], bool] = lambda: False
) -> Any:
    """A client of the server at an address.

    Args:
        host: Name or address.
        port: Of its calls.
        timeout_seconds: How long a call may take.
        wait_seconds: How long the server may take to listen and to answer its first call.
        gone: Says that there is no use in waiting.

    Returns:
        A `carla.Client`; no stream is open yet.

    Raises:
        ValueError: The server or the package is of another version.
        ServerLost: There is no server, or none that answers.
    """
    check_client()
    address = f"{host}:{port}"
    if not listens(host, port, wait_seconds, gone):
        raise ServerLost(f"no CARLA server listens at {address}")
    client = carla.Client(host, port, WORKER_THREADS)
    client.set_timeout(max(timeout_seconds, min(wait_seconds, 60.0)))
    try:
        version = client.get_server_version()
    except RuntimeError:
        raise ServerLost(f"what listens at {address} does not answer as a CARLA server") from None
    check_server(version, address)
    client.set_timeout(timeout_seconds)
    return client
