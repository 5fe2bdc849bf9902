"""The Ray cluster of a run: the one it was submitted to, or one of its own on this machine."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from cluster.ending import descendants, kill
from cluster.supervise import RunFailed, plain

logger = logging.getLogger(__name__)

WORKER_SETUP = "worldfleet.bind"
"""What every Ray worker calls before anything else, so that it finds our packages by their names."""


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

        before = descendants()
        try:
            if joins():
                ray.init(namespace=namespace, runtime_env=_runtime_env())
            else:
                os.environ["PYTHONPATH"] = os.pathsep.join(_leading_path())
                cpus = max(os.cpu_count() or 1, math.ceil(num_cpus))
                ray.init("local", namespace=namespace, num_cpus=cpus, runtime_env=_runtime_env())
        except Exception as error:  # ray.init raises anything, Exception itself, too
            where = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if joins() else "a cluster of this run's own"
            kill([process for process in descendants() if process not in before])
            raise RunFailed(f"Ray did not start, {where}: {type(error).__name__}: {plain(str(error))}") from error
        try:
            yield
        finally:
            below = descendants()
            ray.shutdown()
            kill([process for process in below if process.state == "T"])  # it does not end by itself


def _set_token(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _runtime_env() -> dict[str, str]:
    """What is added to the runtime environment of the job that this process was submitted as, if it was."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    if "worker_process_setup_hook" in job:  # Ray runs one
        logger.warning("the job has a worker_process_setup_hook of its own: let it call %s too", WORKER_SETUP)
        return {}
    return {"worker_process_setup_hook": WORKER_SETUP}


def _leading_path() -> list[str]:
    """What this process searches before the standard library: workers do so too, from their start."""
    library = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    entries = takewhile(lambda entry: entry not in library and not entry.endswith(".zip"), sys.path)
    return [os.path.abspath(entry) for entry in entries]
