"""Keeps one environment in touch with a server that answers: starts it, finds it, replaces it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from envs.carla.client import ServerLost, connect
from envs.carla.config import CarlaConfig
from envs.carla.ports import TRAFFIC_MANAGER, PortClaim, claim_first
from envs.carla.registration import STANDIN
from envs.carla.server_process import ServerProcess, start_program, start_standin

logger = logging.getLogger(__name__)

_STARTS = 3
"""Tries to start a server."""
_MEMORY_EVERY = 10
"""Episodes between two looks at the memory of a server."""


class Supervisor:
    """A server and its client, for as long as the environment lives.

    Args:
        config: The environment.
        town: Map of the stand-in.
    """

    def __init__(self, config: CarlaConfig, town: str) -> None:
        self._config, self._town = config, town
        self._process: ServerProcess | None = None
        self._claim: PortClaim | None = None
        self._client: Any = None
        self._episodes = 0
        self.port = 0
        self.host = config.host or "127.0.0.1"
        self.restarts = 0

    @property
    def client(self) -> Any:
        """The present `carla.Client`."""
        assert self._client is not None, "started"
        return self._client

    def processes(self) -> list[int]:
        """Those of a server that was started here."""
        return [] if self._process is None else self._process.processes()

    @property
    def traffic_port(self) -> int:
        """Of the TrafficManager."""
        return self.port + TRAFFIC_MANAGER

    @property
    def backend(self) -> str:
        """What the environment talks to, for logs: results on the stand-in are no CARLA results."""
        kind = self._config.server_kind
        if kind == "standin":
            return STANDIN
        return f"CARLA server at {self.host}:{self.port}" if self.port else f"CARLA server ({kind})"

    def start(self) -> None:
        """Start or find the server, and connect.

        Raises:
            ValueError: It cannot be used as it is: its version, its options, or there is none.
        """
        for attempt in range(_STARTS):
            try:
                self._open()
                return
            except ServerLost as lost:
                self._drop()
                if self._config.server_kind == "server" or attempt == _STARTS - 1:
                    raise ValueError(str(lost)) from None
                logger.warning("%s; it is started again", lost)
            except BaseException:
                self.close()
                raise

    def restart(self, why: str) -> None:
        """Replace a server that died or hangs, or find it again where the user runs it; the old client is of no use.

        Raises:
            ServerLost: It cannot be brought back.
        """
        self.restarts += 1
        logger.warning("the server on port %d is lost (%s): it is replaced", self.port, why)
        error: Exception | None = None
        for _ in range(_STARTS):
            self._drop()
            try:
                self._open()
                return
            except (ServerLost, ValueError) as again:
                error = again
        raise ServerLost(f"no server after {_STARTS} tries: {error}") from None

    def is_due(self) -> bool:
        """Whether the server, after one more episode, is to be started afresh."""
        self._episodes += 1
        config = self._config
        if self._process is None:
            return False
        if config.recycle_episodes and self._episodes % config.recycle_episodes == 0:
            return True
        look = config.recycle_megabytes and self._episodes % _MEMORY_EVERY == 0
        return bool(look) and self._process.resident_megabytes() > config.recycle_megabytes

    def recycle(self) -> None:
        """Start the server afresh, as it is time to.

        Raises:
            ServerLost: It does not start.
        """
        logger.info("the server on port %d is started afresh after %d episodes", self.port, self._episodes)
        self._drop()
        try:
            self._open()
        except ValueError as error:
            raise ServerLost(str(error)) from None

    def close(self) -> None:
        """Let the server go; one that was started here ends, with all its processes."""
        self._drop()
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _open(self) -> None:
        config = self._config
        gone: Callable[[], bool] = _never
        wait = config.start_seconds
        if config.server_kind == "standin":
            self._process, self.port = start_standin(config, self._town)
            gone = self._process.has_ended
        elif config.server_kind == "program":
            self._process, self.port = start_program(config)
            gone = self._process.has_ended
        else:
            if self._claim is None:
                first = config.port or 2000
                ports = [first + index * config.port_step for index in range(config.servers)]
                self._claim = claim_first(ports, f"{config.servers} server(s) at {self.host}:{first}")
            self.port = self._claim.port
            wait = min(config.start_seconds, config.timeout_seconds)
        self._client = connect(self.host, self.port, config.timeout_seconds, wait, gone)

    def _drop(self) -> None:
        self._client = None
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process = None


def _never() -> bool:
    return False
