"""Orderly stops, and their end: a signal sets a flag, the loop finishes its step, checkpoints and leaves a mark.

    signal --------- half of the budget --------- all of it
      flag up         what hangs and may be        the process ends with what it has
                      left is interrupted

A second SIGINT ends the process at once.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from cluster.ending import Saved, end_now

logger = logging.getLogger(__name__)

_STOPS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP  # SIGHUP: the terminal is gone

POKE_SECONDS = 0.5
"""Time between two attempts to interrupt what hangs."""


class StopLate(BaseException):
    """Raised in what `StopFlag.interruptible` encloses when a stop has used half of its budget."""


class StopFlag:
    """Set by a signal, polled by the loop.

    Args:
        budget_seconds: From the signal to the end of the process.
        overdue: Ends the process; called in a thread of its own when the budget is spent.
    """

    def __init__(self, budget_seconds: float = math.inf, overdue: Callable[[], None] = lambda: None) -> None:
        self.reason: str | None = None
        self.saved: Saved | None = None  # by the run, when it has done what it could
        self._budget, self._overdue = budget_seconds, overdue
        self._deadline = math.inf
        self._interruptible = False
        self._over = threading.Event()
        self._main = threading.get_ident()

    def __bool__(self) -> bool:
        return self.reason is not None

    def __call__(self) -> bool:
        """Whether the run is to stop."""
        return self.reason is not None

    def left(self) -> float:
        """Seconds until the process has to be over; infinite while it is not to stop."""
        return max(0.0, self._deadline - time.monotonic())

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """What is inside may be left anywhere, by `StopLate`, when a stop takes long."""
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def install(self) -> None:
        """Catch the signals, also after something else has taken them, as `ray.init` does."""
        if threading.current_thread() is threading.main_thread():
            for number in _STOPS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                    signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.reason is None:
            self.reason = signal.Signals(number).name
            self._deadline = time.monotonic() + self._budget
            if math.isfinite(self._budget):
                threading.Thread(target=self._guard, name="stop", daemon=True).start()
            logger.warning("%s: finishing the step, then a checkpoint", self.reason)
        elif number == signal.SIGINT:
            end_now(130, "interrupted")
        elif self._interruptible and self.left() <= self._budget / 2:
            self._interruptible = False
            raise StopLate

    def _guard(self) -> None:
        """Poke the main thread when half of the budget is spent, and end the process when all of it is."""
        self._over.wait(self._budget / 2)
        while not self._over.wait(min(POKE_SECONDS, self.left())):
            if self.left() == 0:
                self._overdue()
                return
            if self._interruptible:
                signal.pthread_kill(self._main, signal.SIGTERM)

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in _STOPS}
            self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)
