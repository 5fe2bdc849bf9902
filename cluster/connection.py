"""The Ray cluster of a run: the one it was submitted to, or one of its own on this machine."""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


def joins() -> bool:
    """Whether a run joins a cluster that is there, and may grow, instead of starting one of its own."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def connected(namespace: str, num_cpus: float) -> Iterator[None]:
    """Join the cluster named by RAY_ADDRESS, or start one with at least `num_cpus` logical CPUs.

    A cluster of our own demands a token that only this user can read, unless RAY_AUTH_MODE says otherwise: Ray's
    ports listen on all interfaces, and whoever reaches them may run code. Ray reads the mode when it is first
    imported, so nothing imports it before.
    """
    with tempfile.TemporaryDirectory(prefix="worldfleet-") as private:
        if not joins() and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
            _set_token(Path(private) / "token")
        import ray

        if joins():
            ray.init(namespace=namespace)
        else:
            ray.init(namespace=namespace, num_cpus=max(os.cpu_count() or 1, math.ceil(num_cpus)))
        try:
            yield
        finally:
            ray.shutdown()


def _set_token(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
