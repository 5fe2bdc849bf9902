"""Faults on demand, so that what watches over servers can be tested."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass

from envs.names import unknown_name

logger = logging.getLogger(__name__)

_KINDS = {
    "hang": {"frame": 0.0},
    "die": {"frame": 0.0},
    "drop": {"frame": 0.0, "count": 1.0},
    "delay": {"frame": 0.0, "count": math.inf, "seconds": 1.0},
    "refuse_spawn": {"frame": 0.0, "count": 1.0},
    "first_tick_collision": {"frame": 0.0, "count": math.inf},
}
"""Kinds of faults, their settings and the values of those that are left out."""

HELP = (
    "what goes wrong, as KIND or KIND@name=value,...: hang, die, drop (measurements of a frame), delay, refuse_spawn "
    "or first_tick_collision; from frame= on, count= times, delay by seconds=; may be given several times"
)


@dataclass
class Fault:
    """One fault.

    Args:
        kind: One of the kinds.
        frame: From which frame on.
        left: How many times it still happens.
        seconds: Of a delay.
    """

    kind: str
    frame: float
    left: float
    seconds: float


def read_fault(text: str) -> Fault:
    """A fault from KIND@name=value,...; ValueError where it is none."""
    kind, _, settings = text.partition("@")
    if kind not in _KINDS:
        raise ValueError(unknown_name("fault", kind, _KINDS))
    values = dict(_KINDS[kind])
    for setting in settings.split(",") if settings else ():
        name, _, value = setting.partition("=")
        if name not in values:
            raise ValueError(f"--fault {text}: {unknown_name('setting', name, values)}")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number >= 0:
            raise ValueError(f"--fault {text}: {name} must be a number of at least 0, not {value!r}")
        values[name] = number
    return Fault(kind, values["frame"], values.get("count", 1.0), values.get("seconds", 0.0))


class Faults:
    """The faults of one server.

    Args:
        faults: In the order of their coming.
    """

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self._faults = list(faults)

    def happens(self, kind: str, frame: int) -> Fault | None:
        """The fault of a kind that happens now, which counts it; None where there is none."""
        for fault in self._faults:
            if fault.kind == kind and frame >= fault.frame and fault.left > 0:
                fault.left -= 1
                return fault
        return None

    def before_step(self, frame: int) -> None:
        """Hang, die or wait before the step that leads to a frame."""
        if not self._faults:
            return
        if self.happens("hang", frame):
            logger.warning("--fault: the server hangs at frame %d", frame)
            while True:
                time.sleep(3600.0)
        if self.happens("die", frame):
            logger.warning("--fault: the server dies at frame %d", frame)
            os._exit(1)
        delay = self.happens("delay", frame)
        if delay is not None:
            time.sleep(delay.seconds)
