"""The actors of a run: how they are started, started again and asked for their state."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.replay.service import begin_checkpoint, retain_checkpoints
from actors.replay.store.layout import open_layout
from actors.rollout import next_incarnation
from cluster.config import RunConfig
from cluster.leases import Task
from cluster.placement import Placement
from cluster.roles import ROLES, Death, Role
from cluster.run_dir import RunDir
from cluster.stages import StageCursor
from cluster.supervise import BudgetSpent, RestartBudget

logger = logging.getLogger(__name__)

STATS_SECONDS = 2.0
"""How long the driver waits for a shard's figures before it goes on with the last ones."""

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

    Attributes:
        actors: Handles by role and index; None for an actor that is to start yet.
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
        joining = []
        for role in ROLES.values():
            if role.death is not Death.DROP:
                joining += self._start(role, range(len(self.actors[role.name])))
        self._stats: list[dict[str, float]] = ray.get([shard.stats.remote() for shard in self.actors["replay"]])
        ray.get([call for _, call in joining])

    @property
    def weights(self) -> Any:
        """The weight store."""
        return self.actors["weights"][0]

    @property
    def inserted_steps(self) -> int:
        """Steps that shards have stored since the beginning of the run, as last known."""
        return int(sum(row["inserted_steps"] for row in self._stats))

    @cached_property
    def incarnation(self) -> int:
        return next_incarnation(chain(*ray.get([shard.next_steps.remote() for shard in self.actors["replay"]])))

    def actor(self, name: str, index: int) -> Any:
        """An actor, started if it is not there."""
        if self.actors[name][index] is None:
            self._start(ROLES[name], [index])
        return self.actors[name][index]

    def died(self, role: Role, index: int, reason: str) -> None:
        """Do what the death of an actor means: forget it, and perhaps its group, and note when to start it again.

        Raises:
            BudgetSpent: It died too often.
        """
        if role.death is Death.RESTART:
            raise BudgetSpent(f"{role.name}-{index} died more often than its {self.config.actors.restarts} restarts")
        group = role.death is Death.GROUP
        lost = tuple(range(len(self.actors[role.name]))) if group else (index,)
        self._kill([self.actors[role.name][each] for each in lost])
        for each in lost:
            self.actors[role.name][each] = None
        name = role.name if group else f"{role.name}-{index}"
        if role.death is Death.DROP:
            logger.warning("%s died (%s); its work is dropped", name, reason)
            return
        wait = self._budgets.setdefault(name, RestartBudget(name, self.config.actors.restarts)).spend(reason)
        logger.warning("%s died (%s); it starts again in %.1f s", name, reason, wait)
        self._restarts.append(Restart(role, lost, time.monotonic() + wait))

    def restart_due(self) -> list[tuple[Task, Any]]:
        """Start the actors that are due; the calls that make them ready for work, if any."""
        now = time.monotonic()
        due = [restart for restart in self._restarts if restart.due <= now]
        self._restarts = [restart for restart in self._restarts if restart.due > now]
        if due:
            self.incarnation += 1
        return [call for restart in due for call in self._start(restart.role, restart.indices)]

    def seconds_to_restart(self) -> float:
        """Until the next restart is due; infinite if none is."""
        return min((max(0.0, restart.due - time.monotonic()) for restart in self._restarts), default=math.inf)

    def complete(self, name: str) -> bool:
        """Whether every actor of a role has been started."""
        return None not in self.actors[name]

    def replay_stats(self) -> dict[str, float]:
        """Sums of the shards' figures; a shard that is being restarted counts with its last ones."""
        calls = {shard.stats.remote(): index for index, shard in enumerate(self.actors["replay"])}
        for call in ray.wait(list(calls), num_returns=len(calls), timeout=STATS_SECONDS)[0]:
            try:
                self._stats[calls[call]] = ray.get(call)
            except RayActorError as error:
                logger.warning("replay-%d does not answer: %s", calls[call], first_line(error))
        return {f"replay/{name}": sum(row[name] for row in self._stats) for name in self._stats[0]}

    def begin_checkpoint(self, name: str) -> list[Any]:
        """Calls that end with the learner's state, first, and with every shard's manifest `name` on disk."""
        return [self.actors["learner"][0].state_dict.remote(), *begin_checkpoint(self.actors["replay"], name)]

    def retain(self, names: list[str]) -> list[Any]:
        """Let the shards drop what only other checkpoints need; calls that end when they have."""
        self.layout.drop_older()  # the checkpoint that was just committed holds what was imported
        return retain_checkpoints(self.actors["replay"], names)

    def names(self) -> list[str]:
        """Names of the actors, for people."""
        return [f"{name}-{index}" for name, actors in self.actors.items() for index, one in enumerate(actors) if one]

    def stop(self) -> None:
        """End every actor of the run; those that hold simulators close them first."""
        self._end(ROLES.values())

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
            options = {"name": name, **self._placement.options(role.name, index)}
            if role.death is Death.RESTART:
                options |= {"max_restarts": self.config.actors.restarts, "max_task_retries": -1}
            self.actors[role.name][index] = role.factory(self, index, options)
        calls = role.join(self) if role.join is not None and self.actors[role.name] else []
        return [(Task(role, index), call) for index, call in enumerate(calls)]


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0]
