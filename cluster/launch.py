"""The run on Ray: the parts of `cluster.local` as actors.

               leases                              leases
    driver ---------------> rollout-i      driver ----------> learner-r --publish--> weights
      ^    <-- summaries --    |  ^ actions  ^  <-- metrics --    ^                     |
      |                        |  +----- server-j <---------------|------ pull --------+
      |                        | blocks                           | batches             |
      |                        +-------------> replay-k ----------+                    |
      +-- stats ------------------------------/     rollout-i <----------- pull -------+

A server runs the policy for many rollout actors: planner-j or inference-j, see `cluster.roles.serving_role`. Without
one, the policy runs in the rollout actor. `cluster.roles` has the table of all roles, and `cluster.leases` who gives
them work.

Who waits for whom (backpressure):

| queue                | holds at most               | the producer then        | unblocked by                |
|----------------------|-----------------------------|--------------------------|-----------------------------|
| leases to rollout-i  | 2 collects                  | driver issues no more    | a summary, or the limiter   |
| blocks to replay-k   | 4 messages of an actor, and | rollout actor waits      | the shard's acknowledgement |
|                      | `unapplied_bytes` of all    |                          |                             |
| requests to server-j | 1 of a rollout actor        | rollout actor waits      | its actions                 |
| leases to learner-r  | 1 of `updates_per_lease`    | driver issues no more    | its metrics, or the limiter |
| batches to learner-r | `sample_in_flight` + 1      | learner asks for no more | the learner's next update   |
| weights              | the newest version          | older ones are dropped   |                             |

The limiter lives in the driver and is counted by leases: what a lease may insert or train is counted when it
is issued, so neither sampling nor inserting asks anyone. Stages that only collect or only train have leases of one
kind, and no limiter. A checkpoint is consistent: counters, learner and manifests
are taken in passing, and the shards write while everything goes on. What happens when a part dies:
`cluster.supervise`; whoever is to start again does so when it is due, while the others go on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.replay.flow.limiter import SampleLimiter
from cluster import build
from cluster.checkpoints import Checkpoints
from cluster.config import RunConfig
from cluster.fleet import Fleet, first_line
from cluster.leases import Task
from cluster.offline import source_folders
from cluster.placement import Placement
from cluster.recorder import Recorder
from cluster.roles import ROLES, Death, Role
from cluster.run_dir import RunDir
from cluster.stages import Interleave
from cluster.supervise import RunFailed
from envs.contract import ContractError
from envs.faults import SimulatorError
from learner.nonfinite import NonFiniteError

logger = logging.getLogger(__name__)

SAVE_SECONDS = 600.0
"""How long the last checkpoint may take."""

GROUP_DEATH_SECONDS = 20.0
"""How long after a failed update of one rank the death of another may come to light."""


@dataclass(frozen=True)
class PendingCheckpoint:
    """A checkpoint on its way to the disk."""

    name: str
    step: int
    books: dict[str, Any]  # limiter and recorder when it was begun
    calls: list[Any]  # the learner's state, then the shards' manifests


class Run:
    """The driver's loop: issues leases within the limiter's allowance and books what comes back."""

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        checkpoints: Checkpoints,
        fleet: Fleet,
        limiter: SampleLimiter,
        run_dir: RunDir,
    ) -> None:
        self.config, self.recorder, self.checkpoints = config, recorder, checkpoints
        self.fleet, self.limiter, self.run_dir = fleet, limiter, run_dir
        self.pending: dict[Any, Task] = {}
        self.collect_steps = build.collect_steps(config)
        self.lease_steps = lease_steps(config)
        self._filled = False
        self._pending_checkpoint: PendingCheckpoint | None = None
        self._retaining: list[Any] = []

    def loop(self, stopping: Callable[[], bool]) -> None:
        """Run until the schedule is done or `stopping` says so, then save a last checkpoint."""
        schedule, recorder = self.config.schedule, self.recorder
        while not recorder.finished and recorder.failure is None and not stopping():
            self.issue()
            self.take(timeout=0.5)
            if recorder.advance():
                self.settle()
            if recorder.due("log"):
                recorder.log({**self.fleet.replay_stats(), **self.limiter.metrics()})
            if recorder.due("checkpoint", schedule.checkpoint_seconds) and not recorder.finished:
                self.begin_checkpoint()
            self.end_checkpoint(timeout=0.0)
        self.finish(self.config.cluster.stop_budget_seconds if stopping() or recorder.failure else math.inf)
        if recorder.failure is not None:
            raise RunFailed(recorder.failure)

    def issue(self) -> None:
        """Give every role the work that the stage and the limiter allow now."""
        for role in ROLES.values():
            if role.work is not None:
                role.work.issue(self)
        if isinstance(self.recorder.stage, Interleave):
            self.limiter.watch(self.collect_steps, self.lease_steps, idle=not self.pending)

    def settle(self) -> None:
        """Wait until the replay holds what was collected; let actors go that no later stage needs."""
        flushes = [call for role in ROLES.values() if role.work is not None for call in role.work.flush(self, ())]
        if flushes:
            ray.wait(flushes, num_returns=len(flushes))
        if not self.recorder.stages.collects:
            self.fleet.stop_collecting()

    def tasks(self, role: str) -> Iterator[Task]:
        """The calls of a role in flight."""
        return (task for task in self.pending.values() if task.role.name == role)

    def filled(self) -> bool:
        """Whether the shards hold enough to start on; leased inserts are counted before they are there."""
        if not self._filled:
            self._filled = self.fleet.replay_stats()["replay/steps"] >= self.config.replay.limiter.min_size
        return self._filled

    def send(self, reference: Any, role: str, index: int, steps: int = 0) -> None:
        """Note a call in flight."""
        self.pending[reference] = Task(ROLES[role], index, steps)

    def take(self, timeout: float) -> None:
        """Wait until a call ends, book all that have ended, and start again whoever is due.

        Raises:
            RunFailed: A part died more often than it may, or a call failed.
            ContractError: An environment returned what its spec rules out.
        """
        self.pending.update((call, task) for task, call in self.fleet.restart_due())
        if not self.pending:
            time.sleep(0.01)
            return
        timeout = min(timeout, self.fleet.seconds_to_restart())
        if not ray.wait(list(self.pending), num_returns=1, timeout=timeout)[0]:
            return
        for reference in ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)[0]:
            task = self.pending.pop(reference, None)
            if task is None:  # forgotten with the part that died a moment ago
                continue
            try:
                result = ray.get(reference)
            except RayActorError as error:
                self.died(task, first_line(error))
            except RayTaskError as error:
                if isinstance(error.cause, ContractError):  # the environment is wrong: no other actor would do better
                    raise error.cause from None
                if isinstance(error.cause, SimulatorError):
                    self.recorder.fail(f"{task.role.name}-{task.index}: {error.cause}")
                    continue
                if isinstance(error.cause, NonFiniteError):
                    raise RunFailed(str(error.cause)) from None
                if task.role.death is not Death.GROUP or not self.another_died(task.role):
                    cause = error.cause
                    raise RunFailed(f"{task.role.name}-{task.index} failed: {type(cause).__name__}: {cause}") from error
                self.died(task, f"another of its group died: {type(error.cause).__name__}")
            else:
                assert task.role.work is not None
                task.role.work.book(self, task, result)

    def died(self, task: Task, reason: str) -> None:
        """React to the death of an actor, see `cluster.supervise`.

        Raises:
            BudgetSpent: It died too often.
        """
        role, name = task.role, f"{task.role.name}-{task.index}"
        self.run_dir.event(event="died", part=name, reason=reason, step=self.recorder.steps)
        lost = [task, *self.forget(role, None if role.death is Death.GROUP else task.index)]
        self.fleet.died(role, task.index, reason)
        assert role.work is not None
        role.work.lose(self, lost)

    def forget(self, role: Role, index: int | None = None) -> list[Task]:
        """Take the calls of a part out of the books, of all actors of the role by default."""
        lost = [ref for ref, task in self.pending.items() if task.role is role and index in (None, task.index)]
        return [self.pending.pop(reference) for reference in lost]

    def another_died(self, role: Role) -> bool:
        """Whether the failed call of an actor came from the death of another of its group."""
        actors = self.fleet.actors[role.name]
        if len(actors) == 1:
            return False
        pings = [actor.ping.remote() for actor in actors]
        deadline = time.monotonic() + GROUP_DEATH_SECONDS
        for ping in pings:
            try:
                ray.get(ping, timeout=max(0.0, deadline - time.monotonic()))
            except RayActorError:
                return True
            except ray.exceptions.GetTimeoutError:
                continue
        return False

    def begin_checkpoint(self) -> None:
        """Begin a checkpoint, unless one is pending or the learner is to start again."""
        if self._pending_checkpoint is None and self.fleet.complete("learner"):
            name = self.checkpoints.next_name(self.recorder.steps)
            books = {"limiter": self.limiter.state_dict(), "recorder": self.recorder.state_dict()}
            self._pending_checkpoint = PendingCheckpoint(
                name, self.recorder.steps, books, self.fleet.begin_checkpoint(name)
            )

    def give_up_checkpoint(self) -> None:
        """Forget the pending checkpoint, if there is one."""
        self._pending_checkpoint = None

    def end_checkpoint(self, timeout: float) -> bool:
        """Commit the pending checkpoint if its calls have ended within the timeout; whether there is none left.

        A pending checkpoint whose learner or shard has died is given up: the next one is due later.
        """
        pending = self._pending_checkpoint
        if pending is None or len(ray.wait(pending.calls, num_returns=len(pending.calls), timeout=timeout)[0]) < len(
            pending.calls
        ):
            return pending is None
        self._pending_checkpoint = None
        try:
            learner, *_ = ray.get(pending.calls)
        except RayActorError as error:
            logger.warning("checkpoint %s is given up: %s", pending.name, first_line(error))
            return False
        self.checkpoints.commit(
            pending.step, {"learner": learner, "replay": {"manifest": pending.name}, **pending.books}
        )
        self._retaining = self.fleet.retain(self.checkpoints.names())
        return True

    def finish(self, budget_seconds: float) -> None:
        """Let the calls in flight end, store what rollout actors hold, and save a last checkpoint.

        Rollout actors that are not done within the budget are left out: what they hold no shard has acknowledged.

        Raises:
            RunFailed: The checkpoint could not be written.
        """
        deadline = time.monotonic() + budget_seconds
        for role in ROLES.values():
            if role.death is Death.DROP:
                self.forget(role)
        while self.pending and time.monotonic() < deadline:
            self.take(timeout=0.5)
        flushes = []
        for role in ROLES.values():
            if role.work is not None:
                busy = {task.index for task in self.forget(role)}
                flushes += role.work.flush(self, busy)
        ray.wait(flushes, num_returns=len(flushes), timeout=None if math.isinf(budget_seconds) else budget_seconds)
        for _ in range(1 + self.config.actors.restarts):
            self.give_up_checkpoint()
            while not self.fleet.complete("learner"):
                self.take(timeout=0.5)
            self.begin_checkpoint()
            if self.end_checkpoint(timeout=SAVE_SECONDS):
                ray.wait(self._retaining, num_returns=len(self._retaining), timeout=SAVE_SECONDS)
                return
        raise RunFailed("the last checkpoint could not be written: learner or shards do not answer")


def run(
    config: RunConfig,
    recorder: Recorder,
    checkpoints: Checkpoints,
    stopping: Callable[[], bool],
    state: Mapping[str, Any] | None,
    run_dir: RunDir,
) -> None:
    """Train on the connected Ray cluster until the schedule is done or `stopping` says so.

    Args:
        config: The run.
        recorder: Counts, logs and says what is due.
        checkpoints: Where checkpoints go.
        stopping: Asked at every turn of the driver's loop.
        state: Parts of the checkpoint to continue from, None to start.
        run_dir: Where deaths and restarts are noted, and the replay has its files.

    Raises:
        ValueError: An actor refused its part of the configuration, or the cluster has no room for the run.
        OSError: The disk is full.
        RunFailed: A part died more often than it may, or a call failed.
    """
    limiter = build.limiter(config, lease_steps(config))
    if state is not None:
        limiter.load_state_dict(state["limiter"])
    fleet: Fleet | None = None
    placement = Placement(config)
    try:
        if not placement.wait(stopping):
            return
        state_of_learner = None if state is None else state["learner"]
        imported = source_folders(config) if state is None else ()
        fleet = Fleet(config, run_dir, state_of_learner, placement, recorder.stages, imported)
        recovered = fleet.inserted_steps  # all that was acknowledged, also after the checkpoint
        limiter.recovered(recovered)
        recorder.recovered(recovered)
        logger.info("Ray: %d node(s); actors: %s", len(ray.nodes()), " ".join(fleet.names()))
        Run(config, recorder, checkpoints, fleet, limiter, run_dir).loop(stopping)
    except RayActorError as error:
        raise RunFailed(f"an actor died: {first_line(error)}") from error
    except RayTaskError as error:
        if isinstance(error.cause, (ValueError, OSError)):  # bad input or a full disk that only the actor could see
            raise error.cause from None
        raise RunFailed(f"an actor failed: {type(error.cause).__name__}: {error.cause}") from error
    finally:
        if fleet is not None:
            fleet.stop()
        placement.remove()


def lease_steps(config: RunConfig) -> int:
    """Trained steps of one learner lease."""
    return config.cluster.updates_per_lease * build.batch_steps(config)
