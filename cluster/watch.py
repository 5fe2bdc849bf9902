"""Who has not answered for too long, decided from what was heard of each actor and when; knows no Ray.

Three times are limited, each to be switched off by infinity:

| time      | is over when                                              | runs from                                |
|-----------|-----------------------------------------------------------|------------------------------------------|
| `silent`  | the process is heard: a ping is answered, or it beats     | the question, or the last beat           |
| `stuck`   | a step of its work is done                                | the last step, while it has work to do   |
| `starting`| the first of these happens                                | its start                                |

Whoever waits for another actor does no step either. So an actor that serves others is found before them: while one of
those that serve is late or starts, the others' clocks of work stand still. And while the watch itself was not asked
(this process was stopped, or it wrote a checkpoint), nobody's clock runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

LATE_SECONDS = 5.0
"""After which an actor that serves others is late, if half of its limit is not less."""

PAUSE_SECONDS = 5.0
"""A longer time between two looks was a pause of this process."""


@dataclass(frozen=True)
class Limits:
    """How long an actor may take, in seconds."""

    silent: float
    stuck: float = math.inf
    starting: float = math.inf


@dataclass(frozen=True)
class Overdue:
    """An actor past one of its limits."""

    key: tuple[str, int]  # role and index
    seconds: float
    silent: bool  # whether its process is not heard either

    def __str__(self) -> str:
        lives = "" if self.silent else " (its process lives, its work does not go on)"
        return f"has not answered for {self.seconds:.0f} s{lives}"


@dataclass
class _Clocks:
    """What is known of one actor; times of the watch's clock."""

    limits: Limits
    serves: bool
    heard: float  # when its process was last heard
    moved: float  # when its work last went on
    waiting: bool = True  # whether it is to be heard: a question is open, or it beats by itself
    started: bool = False
    beats: int = -1
    steps: int = 0


class Watch:
    """The clocks of the actors.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._actors: dict[tuple[str, int], _Clocks] = {}
        self._looked = clock()

    def begin(self, key: tuple[str, int], limits: Limits, serves: bool) -> None:
        """Watch an actor that starts now, again or for the first time.

        Args:
            key: Role and index.
            limits: Its limits.
            serves: Whether others wait for it, and it for nobody.
        """
        now = self._clock()
        self._actors[key] = _Clocks(limits, serves, now, now)

    def end(self, key: tuple[str, int]) -> None:
        """Watch an actor no more."""
        self._actors.pop(key, None)

    def asked(self, key: tuple[str, int]) -> None:
        """A question was sent to an actor; later ones are counted from the first that is open."""
        one = self._actors[key]
        if one.started and not one.waiting:
            one.waiting, one.heard = True, self._clock()

    def answered(self, key: tuple[str, int]) -> None:
        """The question was answered."""
        one = self._actors[key]
        one.waiting, one.started, one.heard = False, True, self._clock()

    def pulse(self, key: tuple[str, int], beats: int, steps: int) -> None:
        """What an actor says by itself: its beats and the steps of work that it has done, both since its start."""
        one, now = self._actors[key], self._clock()
        if beats != one.beats:
            one.beats, one.heard = beats, now
        if steps != one.steps:
            one.steps, one.moved, one.started = steps, now, True

    def silence(self, key: tuple[str, int]) -> float:
        """Seconds for which an actor has not been heard."""
        one = self._actors[key]
        return self._clock() - one.heard if one.waiting else 0.0

    def overdue(self, busy: Collection[tuple[str, int]]) -> list[Overdue]:
        """The actors past a limit: those that serve others first, alone if there are any, then those not heard.

        Args:
            busy: Those that have work to do.
        """
        now, past = self._clock(), self._looked
        self._looked = now
        if now - past > PAUSE_SECONDS:
            for one in self._actors.values():
                one.heard += now - past
                one.moved += now - past
        held = any(one.serves and self._late(one, now) for one in self._actors.values())
        for key, one in self._actors.items():
            if key not in busy:
                one.moved = now
            elif held and not one.serves:
                one.moved = min(now, one.moved + now - past)
        found = [(key, one, self._past(one, now)) for key, one in self._actors.items()]
        late = [(one.serves, Overdue(key, *past)) for key, one, past in found if past is not None]
        serving = [overdue for serves, overdue in late if serves]
        silent = [overdue for _, overdue in late if overdue.silent]
        return serving or silent or [overdue for _, overdue in late]

    def _late(self, one: _Clocks, now: float) -> bool:
        return one.waiting and (not one.started or now - one.heard > min(LATE_SECONDS, one.limits.silent / 2))

    def _past(self, one: _Clocks, now: float) -> tuple[float, bool] | None:
        """(seconds, whether it is silent) of a limit that is past."""
        heard_once = one.started or one.beats >= 0
        silence = now - one.heard
        if one.waiting and silence > (one.limits.silent if heard_once else one.limits.starting):
            return silence, True
        stuck = one.limits.stuck if one.started else max(one.limits.stuck, one.limits.starting)
        if one.beats >= 0 and now - one.moved > stuck:
            return now - one.moved, False
        return None
