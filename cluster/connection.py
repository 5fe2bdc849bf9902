"""The Ray cluster of a run: the one it was submitted to, or one of its own on this machine."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import takewhile
from pathlib import Path

from cluster import authentication
from cluster.ending import descendants, kill
from cluster.supervise import RunFailed, plain
from envs.scratch import owned_files, remove_abandoned

logger = logging.getLogger(__name__)

WORKER_SETUP = "worldfleet.bind"
"""What every Ray worker calls before anything else, so that it finds our packages by their names."""

PROBE_SECONDS = 10.0
"""How long an address may take to answer before a run calls it dead."""

LEAVE_SECONDS = 5.0
"""How long a run waits for its processes to be gone, whose files it removes."""

_ATTEMPTS = "RAY_NUM_REDIS_GET_RETRIES"


def joins() -> bool:
    """Whether a run joins a cluster that is there, and may grow, instead of starting one of its own."""
    return os.environ.get("RAY_ADDRESS") not in (None, "", "local")


def namespace(run_dir: Path) -> str:
    """The Ray namespace of a run, in which its actors have their names: no other run directory has it."""
    place = f"{socket.gethostname()}:{run_dir.resolve()}"
    return f"{run_dir.resolve().name}-{sha256(os.fsencode(place)).hexdigest()[:12]}"


def check() -> None:
    """Find out before anything is started or written whether there is a cluster to join, and whether it is guarded.

    Raises:
        ValueError: RAY_AUTH_MODE, a token or RAY_ADDRESS is not what Ray can use, or nobody answers at the address.
    """
    authentication.check(os.environ, joins())
    if joins():
        _probe(os.environ["RAY_ADDRESS"])


@contextmanager
def connected(namespace: str, num_cpus: float, dashboard: bool = True) -> Iterator[None]:
    """Join the cluster named by RAY_ADDRESS, or start one with at least `num_cpus` logical CPUs and a `dashboard`.

    A cluster of our own demands a token that only this user can read, unless RAY_AUTH_MODE is `disabled`; see
    `cluster.authentication`. At the end nothing of the run's processes is left in shared memory.

    Raises:
        ValueError: The cluster cannot be joined.
        RunFailed: It does not start.
    """
    check()
    with ExitStack() as stack:
        stack.callback(_remove_leftovers, {path for path, _ in owned_files()})
        token = stack.enter_context(authentication.guarded(joins()))
        if joins():
            os.environ.setdefault(_ATTEMPTS, "1")  # read at the first import; one takes some 40 s

        if joins():
            _join(os.environ["RAY_ADDRESS"], namespace)
        else:
            _start(namespace, num_cpus, dashboard)
        stack.callback(_leave)
        if token is not None and dashboard:
            logger.info("the dashboard of this run asks for the token in %s", token)
        yield


def _start(namespace: str, num_cpus: float, dashboard: bool) -> None:
    """Start a cluster of the run's own; a second time if it does not come up, as on a machine that is busy."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join(_leading_path())
    cpus = max(os.cpu_count() or 1, math.ceil(num_cpus))
    before = descendants()
    for last in (False, True):
        try:
            ray.init(
                "local",
                namespace=namespace,
                num_cpus=cpus,
                include_dashboard=dashboard,
                runtime_env=_runtime_env(),
            )
            return
        except Exception as error:  # ray.init raises anything, Exception itself, too
            ray.shutdown()
            kill([process for process in descendants() if process not in before])
            said = f"Ray did not start: {type(error).__name__}: {plain(str(error))}"
            if last:
                raise RunFailed(said) from error
            logger.warning("%s; trying again", said)


def _leave() -> None:
    """End our part of the cluster, stopped processes, which do not end by themselves, among it."""
    import ray

    below = descendants()
    ray.shutdown()
    kill([process for process in below if process.state == "T"])


def _join(address: str, namespace: str) -> None:
    import ray

    try:
        ray.init(address, namespace=namespace, runtime_env=_runtime_env())
    except Exception as error:  # ray.init raises anything, Exception itself, too
        ray.shutdown()
        raise ValueError(f"cannot join the Ray cluster at RAY_ADDRESS {address}: {plain(str(error))}") from error


def _probe(address: str) -> None:
    """Refuse an address at which nobody answers; Ray itself would try for a quarter of an hour."""
    if address == "auto":
        return
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"RAY_ADDRESS {address} is that of a job server: submit the run with `ray job submit -- worldfleet train`, "
            "or give HOST:PORT of the cluster's GCS (port 6379 by default)"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"RAY_ADDRESS must be HOST:PORT, ray://HOST:PORT or auto, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError as error:
        raise ValueError(f"nobody answers at RAY_ADDRESS {address}: {error.strerror or error}") from error


def _remove_leftovers(before: set[Path]) -> None:
    """Remove what the processes of a run have left, as soon as they are gone.

    Args:
        before: Files that were there when it began, of others.
    """
    deadline = time.monotonic() + LEAVE_SECONDS
    while remove_abandoned() or any(alive and path not in before for path, alive in _files_of_others()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _files_of_others() -> list[tuple[Path, bool]]:
    mine = f"-{os.getpid()}-"
    return [(path, alive) for path, alive in owned_files() if mine not in path.name]


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
