"""The actors of a run: how they are started, started again and asked for their state."""

from __future__ import annotations

import errno
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.replay.service import begin_checkpoint, retain_checkpoints
from actors.replay.store.layout import open_layout
from actors.rollout import next_incarnation
from cluster.config import RunConfig
from cluster.leases import Task
from cluster.placement import Placement
from cluster.pulse import forget_pulses
from cluster.roles import ROLES, Death, Role
from cluster.run_dir import RunDir
from cluster.stages import StageCursor
from cluster.supervise import RestartBudget, plain

logger = logging.getLogger(__name__)

STATS_SECONDS = 2.0
"""How long the driver waits for a shard's figures before it goes on with the last ones."""

GROUP_DEATH_SECONDS = 20.0
"""How long after a failed call of one actor of a group the death of another may come to light."""

CLOSE_SECONDS = 5.0
"""How long all actors together may take to close their simulators before they are killed."""


@dataclass(frozen=True)
class Restart:
    """Actors that are to start again."""

    role: Role
    indices: tuple[int, ...]
    due: float  # s, monotonic


class Fleet:
    """The actors of a run and their handles.

    Args:
        config: The run.
        run_dir: Where the shards keep their files.
        learner_state: State of the learner to continue from, None to start.
        placement: Room for all actors.
        stages: Where the run is: actors that collect are made only if it still collects.
        imported: Shard folders of another replay that a new run begins with.

    Those that collect start with `start_collecting`, when the shards have said what they hold.

    Attributes:
        actors: Handles by role and index; None for an actor that is to start yet.
        ray_names: Of the actors that were started, by role and index.
        incarnation: Of the rollout actors that start next; no stored stream has it.
    """

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        learner_state: Mapping[str, Any] | None,
        placement: Placement,
        stages: StageCursor,
        imported: tuple[Path, ...] = (),
    ) -> None:
        self.config, self.learner_state = config, learner_state
        self.ledgers = run_dir.ledgers if config.cluster.ledger else None
        self.bundles = run_dir.bundles.absolute()
        self.layout = open_layout(run_dir.replay, config.replay, imported)
        self.actors: dict[str, list[Any]] = {
            name: [] if role.collects and not stages.collects else [None] * config.count(name)
            for name, role in ROLES.items()
        }
        self._placement = placement
        self._starts: Counter[tuple[str, int]] = Counter()
        self._budgets: dict[str, RestartBudget] = {}
        self._restarts: list[Restart] = []
        self.ray_names: dict[tuple[str, int], str] = {}
        self._joining: list[tuple[Task, Any]] = []
        self._stats: list[dict[str, float]] = []
        for role in ROLES.values():
            if role.death is not Death.DROP and not role.collects:
                self._joining += self._start(role, range(len(self.actors[role.name])))

    @property
    def weights(self) -> Any:
        """The weight store."""
        return self.actors["weights"][0]

    @property
    def inserted_steps(self) -> int:
        """Steps that shards have stored since the beginning of the run, as last known."""
        return int(sum(row["inserted_steps"] for row in self._stats))

    @property
    def lost_steps(self) -> int:
        """Steps that shards missed when they recovered, since the beginning of the run."""
        return int(sum(row["lost_steps"] for row in self._stats))

    def ask_shards(self) -> list[Any]:
        """Calls that end when every shard has recovered what it holds; see `recover`."""
        return [call for shard in self.actors["replay"] for call in (shard.stats.remote(), shard.next_steps.remote())]

    def start_collecting(self, recovered: Sequence[Any]) -> None:
        """Start the actors that collect and those that act for them.

        Args:
            recovered: The answers to `ask_shards`.
        """
        self._stats = list(recovered[::2])
        self.incarnation = next_incarnation(chain(*recovered[1::2]))
        for role in ROLES.values():
            if role.collects:
                self._joining += self._start(role, range(len(self.actors[role.name])))

    def actor(self, name: str, index: int) -> Any:
        """An actor, started if it is not there."""
        if self.actors[name][index] is None:
            self._start(ROLES[name], [index])
        return self.actors[name][index]

    def died(self, role: Role, index: int, reason: str) -> None:
        """Do what the death of an actor means: forget it, and perhaps its group, and note when to start it again.

        Args:
            role: Its role.
            index: Its index.
            reason: What is said of it: "died (...)", "has not answered for 60 s".

        Raises:
            BudgetSpent: It died too often.
        """
        group = role.death is Death.GROUP
        lost = tuple(range(len(self.actors[role.name]))) if group else (index,)
        self._kill([self.actors[role.name][each] for each in lost])
        for each in lost:
            self.actors[role.name][each] = None
        self._joining = [
            (task, call) for task, call in self._joining if task.role is not role or task.index not in lost
        ]
        part = f"{role.name}-{index}"
        name = role.name if group else part
        if role.death is Death.DROP:
            logger.warning("%s %s; its work is dropped", part, reason)
            return
        wait = self._budgets.setdefault(name, RestartBudget(name, self.config.actors.restarts)).spend(reason)
        whole = f"all of {name} are replaced" if group and len(lost) > 1 else "it is replaced"
        logger.warning("%s %s; %s in %.1f s", part, reason, whole, wait)
        self._restarts.append(Restart(role, lost, time.monotonic() + wait))

    def restart_due(self) -> list[tuple[Task, Any]]:
        """Start the actors that are due; the calls that make those just started ready for work, if any."""
        now = time.monotonic()
        joining, self._joining = self._joining, []
        due = [restart for restart in self._restarts if restart.due <= now]
        self._restarts = [restart for restart in self._restarts if restart.due > now]
        if due:
            self.incarnation += 1
        return joining + [call for restart in due for call in self._start(restart.role, restart.indices)]

    def seconds_to_restart(self) -> float:
        """Until the next actor is to start; infinite if none is."""
        return min((max(0.0, restart.due - time.monotonic()) for restart in self._restarts), default=math.inf)

    def complete(self, name: str) -> bool:
        """Whether every actor of a role has been started."""
        return None not in self.actors[name]

    def replay_stats(self) -> dict[str, float]:
        """Sums of the shards' figures; a shard that is being restarted counts with its last ones."""
        calls = {shard.stats.remote(): index for index, shard in enumerate(self.actors["replay"])}
        for call in ray.wait(list(calls), num_returns=len(calls), timeout=STATS_SECONDS)[0]:
            with suppress(RayActorError):  # the watch says so
                self._stats[calls[call]] = ray.get(call)
        return {f"replay/{name}": sum(row[name] for row in self._stats) for name in self._stats[0]}

    def begin_checkpoint(self, name: str) -> list[Any]:
        """Calls that end with the learner's state, first, and with every shard's manifest `name` on disk."""
        return [self.actors["learner"][0].state_dict.remote(), *begin_checkpoint(self.actors["replay"], name)]

    def retain(self, names: list[str]) -> list[Any]:
        """Let the shards drop what only other checkpoints need; calls that end when they have."""
        self.layout.drop_older()  # the checkpoint that was just committed holds what was imported
        return retain_checkpoints(self.actors["replay"], names)

    def part_of(self, error: RayActorError) -> str | None:
        """Name of the actor that an error is about, None if it is none of ours that is there."""
        for name, actors in self.actors.items():
            for index, actor in enumerate(actors):
                if actor is not None and actor._actor_id.hex() == error.actor_id:
                    return f"{name}-{index}"
        return None

    def another_died(self, role: Role) -> bool:
        """Whether the failed call of an actor came from the death of another of its group."""
        actors = self.actors[role.name]
        if len(actors) == 1:
            return False
        pings = [actor.ping.remote() for actor in actors]
        deadline = time.monotonic() + GROUP_DEATH_SECONDS
        for ping in pings:
            try:
                ray.get(ping, timeout=max(0.0, deadline - time.monotonic()))
            except RayActorError:
                return True
            except GetTimeoutError:
                continue
        return False

    def names(self) -> list[str]:
        """Names of the actors, for people."""
        return [f"{name}-{index}" for name, actors in self.actors.items() for index, one in enumerate(actors) if one]

    def stop(self) -> None:
        """End every actor of the run; those that hold simulators close them first."""
        self._end(ROLES.values())
        forget_pulses()

    def stop_collecting(self) -> None:
        """End the actors that collect and those that act for them."""
        self._end([role for role in ROLES.values() if role.collects])

    def _end(self, roles: Iterable[Role]) -> None:
        names = [role.name for role in roles]
        closing = [actor.close.remote() for name in names if ROLES[name].closes for actor in self._alive(name)]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        self._restarts = [restart for restart in self._restarts if restart.role.name not in names]
        self._kill([actor for name in names for actor in self._alive(name)])
        self.actors.update((name, []) for name in names)

    def _alive(self, name: str) -> list[Any]:
        return [actor for actor in self.actors[name] if actor is not None]

    def _kill(self, actors: list[Any]) -> None:
        for actor in actors:
            if actor is not None:
                ray.kill(actor)

    def _start(self, role: Role, indices: Iterable[int]) -> list[tuple[Task, Any]]:
        """Start actors of a role; the calls that make its group ready, if it takes any."""
        for index in indices:
            starts = self._starts[role.name, index]
            self._starts[role.name, index] += 1
            name = f"{role.name}-{index}.{starts}" if starts else f"{role.name}-{index}"
            self.ray_names[role.name, index] = name
            options = {"name": name, **self._placement.options(role.name, index)}
            if role.death is Death.RESTART:
                options |= {"max_restarts": self.config.actors.restarts, "max_task_retries": -1}
            self.actors[role.name][index] = role.factory(self, index, options)
        calls = role.join(self) if role.join is not None and self.actors[role.name] else []
        return [(Task(role, index), call) for index, call in enumerate(calls)]


def cause_of(error: BaseException) -> BaseException:
    """What a call raised first, however many calls passed it on."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) and error.cause is not error:
        error = error.cause
    return error


def in_words(error: BaseException) -> str:
    """The first line of an error's text, for people; of what a call raised, not of how it travelled."""
    cause = cause_of(error) if isinstance(error, RayTaskError) else None
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {cause.filename or 'the log of the replay'} cannot be written"
    text = plain(str(cause or error))
    return f"{type(cause).__name__}: {text}" if cause is not None else text
