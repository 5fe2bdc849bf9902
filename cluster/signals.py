"""Orderly stops: a signal sets a flag, the loop finishes its step, checkpoints and leaves a mark."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class StopFlag:
    """Set by a signal, polled by the loop."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """SIGTERM and SIGINT set the flag inside the block; a second SIGINT interrupts at once.

    Enter it after `ray.init`, which installs handlers of its own. Outside the main thread no signal
    can be caught and the flag stays down.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if flag and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.reason = name
        logger.warning("%s: finishing the step, then a checkpoint", name)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
