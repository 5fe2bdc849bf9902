"""Watches Ray's own processes of this node: without its raylet or GCS, calls of a driver wait for ever."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from types import TracebackType

import ray
from ray._private import worker

from cluster.ending import read_process

CHECK_SECONDS = 1.0
"""Time between two looks."""

STOPPED_SECONDS = 30.0
"""How long one of them may stand still, as after SIGSTOP."""

AWAY_SECONDS = 30.0
"""How long one of a cluster that the run has joined may refuse connections; a GCS with a store may come back."""


class NodeGuard:
    """Looks after the raylet and the GCS while a run is connected to Ray.

    Args:
        lost: Told which of them is gone, in a thread of its own; it has to end the process.
        clock: Seconds, monotonic.
    """

    def __init__(self, lost: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._lost, self._clock = lost, clock
        self._over = threading.Event()
        self._since: dict[str, float] = {}  # when it was first seen away or standing still

    def __enter__(self) -> NodeGuard:
        threading.Thread(target=self._watch, args=(_checks(),), name="node", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def _watch(self, checks: dict[str, Callable[[], str]]) -> None:
        while not self._over.wait(CHECK_SECONDS):
            for part, check in checks.items():
                reason = self.judge(part, check())
                if reason is not None and not self._over.is_set():
                    self._lost(reason)
                    return

    def judge(self, part: str, condition: str) -> str | None:
        """Why the run cannot go on, if it cannot.

        Args:
            part: Which process.
            condition: "well", "dead", "stopped" or "away".
        """
        if condition == "well":
            self._since.pop(part, None)
            return None
        for_seconds = self._clock() - self._since.setdefault(part, self._clock())
        if condition == "dead":
            return f"{part} of this node has died"
        limit, what = (STOPPED_SECONDS, "has stood still") if condition == "stopped" else (AWAY_SECONDS, "is away")
        return f"{part} of this node {what} for {for_seconds:.0f} s" if for_seconds >= limit else None


def condition_of(pid: int) -> str:
    """Of one of our own processes: "well", "dead" or "stopped"."""
    process = read_process(pid)
    if process is None or process.state in "ZX":
        return "dead"
    return "stopped" if process.state in "Tt" else "well"


def _checks() -> dict[str, Callable[[], str]]:
    """How to look at each of them: by its process if it is ours, else by where it listens."""
    node = worker._global_node
    if not ray.is_initialized() or node is None:
        return {}
    processes = node.all_processes
    checks: dict[str, Callable[[], str]] = {}
    for kind, part in (("gcs_server", "Ray's GCS"), ("raylet", "the raylet")):
        for info in processes.get(kind, ()):
            checks[part] = lambda pid=info.process.pid: condition_of(pid)  # type: ignore[misc]
    if not checks:
        host, _, port = node.gcs_address.rpartition(":")
        checks["Ray's GCS"] = lambda: _answers(socket.AF_INET, (host, int(port)))
        checks["the raylet"] = lambda: _answers(socket.AF_UNIX, node.raylet_socket_name)
    return checks


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> str:
    with closing(socket.socket(family)) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(address)
        except OSError:
            return "away"
    return "well"
