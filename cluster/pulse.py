"""Signs of life of actors whose calls take long: beats and steps of work, through the key-value store of Ray's GCS.

A call to such an actor would wait behind the one that runs, so a thread of its process writes two numbers every
`PULSE_SECONDS`: its own beats, which say that the process runs, and the steps of work that its main thread has done.
By the same way the driver tells all of them that the run is to stop, and a call ends early.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

import ray
from ray._private.worker import global_worker
from ray.exceptions import RaySystemError, RpcError

logger = logging.getLogger(__name__)

PULSE_SECONDS = 1.0
"""Time between two beats."""

RPC_SECONDS = 5.0
"""How long a call to the store may take."""

AWAY = (RpcError, RaySystemError)
"""What a call to the store raises while the GCS does not answer."""

_SPACE = b"worldfleet"


class Pulse:
    """The signs of life of this process.

    Args:
        post: Tells (beats, steps); whether the run is to stop.
        seconds: Time between two beats.
    """

    def __init__(self, post: Callable[[int, int], bool], seconds: float = PULSE_SECONDS) -> None:
        self._post, self._seconds = post, seconds
        self._steps = self._moves = 0
        self._stopping = False
        self._place: Callable[[], object] = lambda: None
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def tick(self) -> bool:
        """Count a step of work; whether the run is to stop."""
        self._steps += 1
        return self._stopping

    def follow(self, place: Callable[[], object]) -> None:
        """Count as a step also each time that `place`, asked at every beat, has changed."""
        self._place = place

    def _beat(self) -> None:
        before: object = None
        pause = threading.Event()
        beats = 0
        while True:
            place = self._place()
            self._moves, before = self._moves + (place != before), place
            try:
                self._stopping = self._post(beats, self._steps + self._moves)
            except AWAY as error:  # the store is away: whoever needs it says so
                logger.debug("no pulse: %s", error)
            beats += 1
            pause.wait(self._seconds)


def start_pulse(name: str) -> Pulse:
    """The pulse of the actor `name`, in its process."""
    store, prefix = global_worker.gcs_client, _prefix()
    key = prefix + name.encode()

    def post(beats: int, steps: int) -> bool:
        store.internal_kv_put(key, b"%d %d" % (beats, steps), True, _SPACE, RPC_SECONDS)
        return store.internal_kv_get(prefix + b"stop", _SPACE, RPC_SECONDS) is not None

    return Pulse(post)


def read_pulses(names: list[str]) -> Mapping[str, tuple[int, int]]:
    """(beats, steps) of the actors that have told any."""
    if not names:
        return {}
    prefix = _prefix()
    keys = {prefix + name.encode(): name for name in names}
    try:
        found = global_worker.gcs_client.internal_kv_multi_get(list(keys), _SPACE, RPC_SECONDS)
    except AWAY as error:
        logger.debug("no pulses: %s", error)
        return {}
    return {keys[key]: _numbers(value) for key, value in found.items()}


def ask_to_stop() -> None:
    """Tell all actors of this run that their calls are to end early."""
    with suppress(*AWAY):
        global_worker.gcs_client.internal_kv_put(_prefix() + b"stop", b"1", True, _SPACE, RPC_SECONDS)


def forget_pulses() -> None:
    """Remove what the actors of this run have told."""
    with suppress(*AWAY):
        global_worker.gcs_client.internal_kv_del(_prefix(), True, _SPACE, RPC_SECONDS)


def _prefix() -> bytes:
    return f"{ray.get_runtime_context().get_job_id()}/".encode()


def _numbers(value: bytes) -> tuple[int, int]:
    beats, steps = value.split()
    return int(beats), int(steps)
