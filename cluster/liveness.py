"""The watch over the actors of a fleet: asks them, hears their pulses, and says who hangs, came back or is gone.

Actors whose calls take long beat by themselves (`cluster.pulse`); the others are pinged, behind whatever they do.
What is too long is decided in `cluster.watch`. An actor that Ray restarts behind the same handle is killed here when it
hangs, so that Ray does; the others are for the driver to replace, as if they had died.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state
from ray.exceptions import RayError

from cluster.config import RunConfig
from cluster.fleet import Fleet
from cluster.pulse import read_pulses
from cluster.roles import ROLES, Death, Role
from cluster.supervise import BudgetSpent
from cluster.watch import Limits, Overdue, Watch

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Least time between two looks."""

PING_SECONDS = 2.0
"""Time between an answer and the next ping."""

START_SECONDS = 300.0
"""How long an actor may take to import, make its simulators or recover its log; `timeout_seconds` if that is longer."""

Key = tuple[str, int]


@dataclass(frozen=True)
class Hang:
    """An actor that is to be replaced."""

    role: Role
    index: int
    reason: str


@dataclass
class _Restarts:
    """Restarts by Ray of one actor."""

    count: int = 0
    known: bool = False  # whether the next was announced already, because we killed it


class Liveness:
    """Looks after a fleet.

    Args:
        config: The run.
        fleet: Its actors.
        note: Told (part, reason) of each death that Ray or this watch mends by itself.
    """

    def __init__(self, config: RunConfig, fleet: Fleet, note: Callable[[str, str], None]) -> None:
        self._config, self._fleet, self._note = config, fleet, note
        self._watch = Watch()
        self._known: dict[Key, Any] = {}
        self._pings: dict[Key, Any] = {}
        self._next_ping: dict[Key, float] = {}
        self._restarts: dict[Key, _Restarts] = {}
        self._next_look = 0.0

    def look(self, busy: Collection[Key]) -> list[Hang]:
        """Those that the driver is to replace now; what Ray restarts is restarted.

        Args:
            busy: Role and index of the actors that have work to do.

        Raises:
            BudgetSpent: An actor that Ray restarts is dead for good.
        """
        now = time.monotonic()
        if now < self._next_look:
            return []
        self._next_look = now + LOOK_SECONDS
        self._follow_fleet()
        self._take_pings()
        self._read_pulses()
        hangs = []
        for overdue in self._watch.overdue(busy):
            role, index = ROLES[overdue.key[0]], overdue.key[1]
            if role.death is not Death.RESTART:
                hangs.append(Hang(role, index, str(overdue)))
            elif not self._came_back(overdue.key):
                self._restart(overdue)
        return hangs

    def check_restarted(self) -> None:
        """Look at every actor that Ray restarts.

        Raises:
            BudgetSpent: One is dead for good.
        """
        for key in list(self._known):
            self._came_back(key)

    def silent(self, seconds: float) -> list[str]:
        """Parts that have not been heard for some seconds."""
        return [f"{role}-{index}" for role, index in self._known if self._watch.silence((role, index)) > seconds]

    def _follow_fleet(self) -> None:
        """Watch what has been started, and nothing that is gone."""
        there = {
            (name, index): actor
            for name, actors in self._fleet.actors.items()
            for index, actor in enumerate(actors)
            if actor is not None
        }
        for key in [key for key, actor in self._known.items() if there.get(key) is not actor]:
            del self._known[key]
            self._watch.end(key)
            self._pings.pop(key, None)
            self._next_ping.pop(key, None)
        for key in there.keys() - self._known.keys():
            self._known[key] = there[key]
            self._begin(key)

    def _begin(self, key: Key) -> None:
        role = ROLES[key[0]]
        self._watch.begin(key, limits(self._config, role), serves=role.work is None)

    def _take_pings(self) -> None:
        now = time.monotonic()
        for key, actor in self._known.items():
            if ROLES[key[0]].pulse:
                continue
            ping = self._pings.get(key)
            if ping is None and now >= self._next_ping.get(key, 0.0):
                self._pings[key] = actor.ping.options(max_task_retries=0).remote()
                self._watch.asked(key)
            elif ping is not None and ray.wait([ping], timeout=0)[0]:
                del self._pings[key]
                self._next_ping[key] = now + PING_SECONDS
                try:
                    ray.get(ping)
                except RayError:  # dead, or not there for the moment
                    if not self._came_back(key):
                        self._next_ping[key] = now
                else:
                    self._came_back(key)  # a call that was sent in between has waited for it
                    self._watch.answered(key)

    def _read_pulses(self) -> None:
        names = {self._fleet.ray_names[key]: key for key in self._known if ROLES[key[0]].pulse}
        for name, (beats, steps) in read_pulses(list(names)).items():
            self._watch.pulse(names[name], beats, steps)

    def _came_back(self, key: Key) -> bool:
        """Whether Ray has restarted an actor since the last time, or is at it.

        Raises:
            BudgetSpent: It is dead for good.
        """
        if ROLES[key[0]].death is not Death.RESTART:
            return False  # its call fails, too
        table = state.actors(self._known[key]._actor_id.hex())
        part, limit = f"{key[0]}-{key[1]}", self._config.actors.restarts
        restarts = self._restarts.setdefault(key, _Restarts())
        count = int(table.get("NumRestarts", restarts.count))
        if table.get("State") == "DEAD":
            raise BudgetSpent(f"{part} died {count + 1} times, {limit} restarts are allowed")
        if count == restarts.count:
            return False
        restarts.count = count
        if not restarts.known:
            logger.warning("%s died; it is replaced (%d of %d restarts)", part, count, limit)
            self._note(part, "died")
        restarts.known = False
        self._begin(key)
        return True

    def _restart(self, overdue: Overdue) -> None:
        """Kill an actor that hangs, so that Ray starts it again."""
        part = f"{overdue.key[0]}-{overdue.key[1]}"
        logger.warning("%s %s; it is replaced", part, overdue)
        self._note(part, str(overdue))
        self._restarts.setdefault(overdue.key, _Restarts()).known = True
        ray.kill(self._known[overdue.key], no_restart=False)
        self._pings.pop(overdue.key, None)
        self._begin(overdue.key)


def limits(config: RunConfig, role: Role) -> Limits:
    """How long an actor of a role may take."""
    seconds = config.roles[role.name].timeout_seconds
    if seconds == 0:
        return Limits(math.inf)
    step = role.step_seconds(config) if role.pulse else math.inf
    return Limits(seconds, seconds + step, max(START_SECONDS, seconds))
