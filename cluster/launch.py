"""The run on Ray: the parts of `cluster.local` as actors.

               leases                              leases
    driver ---------------> rollout-i      driver ----------> learner-r --publish--> weights
      ^    <-- summaries --    |  ^ actions  ^  <-- metrics --    ^                     |
      |                        |  +----- server-j <---------------|------ pull --------+
      |                        | blocks                           | batches             |
      |                        +-------------> replay-k ----------+                    |
      +-- stats ------------------------------/     rollout-i <----------- pull -------+

A server runs the policy for many rollout actors: planner-j or inference-j, see `RunConfig.serving`. Without one, the
policy runs in the rollout actor.

Who waits for whom (backpressure):

| queue                | holds at most               | the producer then        | unblocked by                |
|----------------------|-----------------------------|--------------------------|-----------------------------|
| leases to rollout-i | 2 collects                  | driver issues no more    | a summary, or the limiter   |
| blocks to replay-k   | 4 messages of an actor, and | rollout actor waits      | the shard's acknowledgement |
|                      | `unapplied_bytes` of all    |                          |                             |
| requests to server-j | 1 of a rollout actor        | rollout actor waits      | its actions                 |
| leases to learner-r | 1 of `updates_per_lease`   | driver issues no more    | its metrics, or the limiter |
| batches to learner-r | `sample_in_flight` + 1      | learner asks for no more | the learner's next update   |
| weights              | the newest version          | older ones are dropped   |                             |

The limiter lives in the driver and is counted by leases: what a lease may insert or train is counted when it
is issued, so neither sampling nor inserting asks anyone. Stages that only collect or only train have leases of one
kind, and no limiter. A checkpoint is consistent: counters, learner and manifests
are taken in passing, and the shards write while everything goes on. What happens when a part dies:
`cluster.supervise`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.replay.flow.limiter import SampleLimiter
from cluster import build
from cluster.checkpoints import Checkpoints
from cluster.config import RunConfig
from cluster.fleet import Fleet, first_line
from cluster.offline import source_folders
from cluster.recorder import Recorder
from cluster.run_dir import RunDir
from cluster.stages import Collect, Fit, Interleave
from cluster.supervise import RunFailed
from envs.contract import ContractError
from learner.algorithms.base import Part

logger = logging.getLogger(__name__)

LEASES_AHEAD = 2
"""Collects a rollout actor may hold, so that it never waits for the driver."""

SAVE_SECONDS = 600.0
"""How long the last checkpoint may take."""

GROUP_DEATH_SECONDS = 20.0
"""How long after a failed update of one rank the death of another may come to light."""


@dataclass(frozen=True)
class Task:
    """A call in flight."""

    role: str  # rollout, learner or evaluator
    index: int
    steps: int  # environment steps or trained steps leased to it


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
        while not recorder.finished and not stopping():
            self.issue()
            self.take(timeout=0.5)
            if recorder.due("eval"):
                self.evaluate()
            if recorder.advance():
                self.settle()
            if recorder.due("log"):
                recorder.log({**self.fleet.replay_stats(), **self.limiter.metrics()})
            if recorder.due("checkpoint", schedule.checkpoint_seconds) and not recorder.finished:
                self.begin_checkpoint()
            self.end_checkpoint(timeout=0.0)
        self.finish(self.config.cluster.stop_budget_seconds if stopping() else math.inf)

    def issue(self) -> None:
        """Give every actor the leases that the stage and the limiter allow."""
        match self.recorder.stage:
            case Interleave():
                self.issue_collects(self.limiter.can_insert)
                if self.limiter.can_sample(self.lease_steps) and self.filled() and self.issue_updates():
                    self.limiter.sampled(self.lease_steps)
                self.limiter.watch(self.collect_steps, self.lease_steps, idle=not self.pending)
            case Collect():
                self.issue_collects(lambda steps: True)
            case Fit(part=part):
                batches = math.ceil(self.recorder.left / self.config.learner.updates_per_step)
                if batches > 0:
                    self.issue_updates(min(batches, self.config.cluster.updates_per_lease), part)

    def issue_collects(self, allowed: Callable[[int], bool]) -> None:
        """Give every rollout actor the leases that the stage has left and `allowed` lets it have."""
        leases = Counter(task.index for task in self.pending.values() if task.role == "rollout")
        left = self.recorder.left - leases.total() * self.collect_steps
        for index, actor in enumerate(self.fleet.rollouts):
            held = leases[index]
            while held < LEASES_AHEAD and left > 0 and allowed(self.collect_steps):
                self.limiter.inserted(self.collect_steps)
                self.send(actor.run.remote(self.config.actors.ticks_per_collect), "rollout", index, self.collect_steps)
                held, left = held + 1, left - self.collect_steps

    def issue_updates(self, batches: int | None = None, part: Part | None = None) -> bool:
        """Let an idle learner train on `batches` batches, `updates_per_lease` by default; whether it was idle."""
        if any(task.role == "learner" for task in self.pending.values()):
            return False
        for rank, learner in enumerate(self.fleet.learners):
            lease = learner.train.remote(batches or self.config.cluster.updates_per_lease, part)
            self.send(lease, "learner", rank, self.lease_steps)
        return True

    def settle(self) -> None:
        """Wait until the replay holds what was collected; let actors go that no later stage needs."""
        flushes = [actor.flush.remote() for actor in self.fleet.rollouts]
        if flushes:
            ray.wait(flushes, num_returns=len(flushes))
        if not self.recorder.stages.collects:
            self.fleet.stop_collecting()

    def filled(self) -> bool:
        """Whether the shards hold enough to start on; leased inserts are counted before they are there."""
        if not self._filled:
            self._filled = self.fleet.replay_stats()["replay/steps"] >= self.config.replay.limiter.min_size
        return self._filled

    def send(self, reference: Any, role: str, index: int, steps: int) -> None:
        """Note a call in flight."""
        self.pending[reference] = Task(role, index, steps)

    def take(self, timeout: float | None) -> None:
        """Wait until a call ends and book all that have ended.

        Raises:
            RunFailed: A part died more often than it may, or a call failed.
            ContractError: An environment returned what its spec rules out.
        """
        if not self.pending:
            time.sleep(0.01)
            return
        if not ray.wait(list(self.pending), num_returns=1, timeout=timeout)[0]:
            return
        for reference in ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)[0]:
            task = self.pending.pop(reference, None)
            if task is None:  # forgotten with the part that died a moment ago
                continue
            try:
                self.book(task, ray.get(reference))
            except RayActorError as error:
                self.died(task, first_line(error))
            except RayTaskError as error:
                if isinstance(error.cause, ContractError):  # the environment is wrong: no other actor would do better
                    raise error.cause from None
                if task.role != "learner" or not self.another_rank_died():
                    cause = error.cause
                    raise RunFailed(f"{task.role}-{task.index} failed: {type(cause).__name__}: {cause}") from error
                self.died(task, f"another rank died: {type(error.cause).__name__}")

    def book(self, task: Task, result: Any) -> None:
        """Count the result of a call."""
        if task.role == "rollout":
            seconds = {"env": result.env_seconds, "policy": result.policy_seconds, "push": result.push_seconds}
            self.recorder.rollout(result.steps, result.episodes, result.metrics)
            lag = max(0, self.recorder.updates - result.policy_version)  # updates newer than the actions' weights
            self.recorder.add({"policy_lag": lag, "policy_version": result.policy_version}, "rollout/")
            self.recorder.add(
                {name: value / result.steps * 1e6 for name, value in seconds.items()}, "timing/us_per_step_"
            )
        elif task.role == "learner" and task.index == 0:
            updates, metrics = result
            self.recorder.learner(updates, metrics)
        elif task.role == "evaluator":
            self.recorder.evaluation(result.summary)

    def died(self, task: Task, reason: str) -> None:
        """React to the death of an actor, see `cluster.supervise`."""
        self.run_dir.event(event="died", part=f"{task.role}-{task.index}", reason=reason, step=self.recorder.steps)
        if task.role == "rollout":
            self.limiter.release(task.steps + sum(lost.steps for lost in self.forget("rollout", task.index)))
            self.fleet.replace_rollout(task.index, reason)
        elif task.role == "learner":
            self.restart_learners(reason)
        else:
            logger.warning("the evaluator died (%s); its evaluation is dropped", reason)
            self.fleet.drop_evaluator()

    def forget(self, role: str, index: int | None = None) -> list[Task]:
        """Take the calls of a part out of the books, of all its processes by default."""
        lost = [ref for ref, task in self.pending.items() if task.role == role and index in (None, task.index)]
        return [self.pending.pop(reference) for reference in lost]

    def restart_learners(self, reason: str) -> None:
        """Start the group of ranks from the newest checkpoint; the limiter gives back the updates that are lost."""
        self.forget("learner")
        self._pending_checkpoint = None  # it waits for a learner that is gone
        state = self.checkpoints.newest_learner()
        lost = self.recorder.updates - (int(state["updates"]) if state is not None else 0)
        updates = self.fleet.replace_learners(state, reason)
        counted = 1.0 - self.recorder.stages.fitted(updates) / max(1, updates)  # share of updates outside Fit stages
        samples = state["samples"] * self.config.cluster.learner_ranks if state is not None else 0
        self.limiter.redo(round(samples * counted))
        self.recorder.learner(updates, {})
        self.run_dir.event(event="restarted", part="learner", updates=updates, lost=lost, step=self.recorder.steps)
        logger.warning("the learner continues from update %d, %d updates are done again", updates, lost)

    def another_rank_died(self) -> bool:
        """Whether a failed update came from the death of another rank of the group."""
        if len(self.fleet.learners) == 1:
            return False
        pings = [learner.ping.remote() for learner in self.fleet.learners]
        deadline = time.monotonic() + GROUP_DEATH_SECONDS
        for ping in pings:
            try:
                ray.get(ping, timeout=max(0.0, deadline - time.monotonic()))
            except RayActorError:
                return True
            except ray.exceptions.GetTimeoutError:
                continue
        return False

    def evaluate(self) -> None:
        """Start an evaluation of the newest weights, unless one is going on."""
        if not any(task.role == "evaluator" for task in self.pending.values()):
            self.send(self.fleet.evaluator().run.remote(), "evaluator", 0, 0)

    def begin_checkpoint(self) -> None:
        """Begin a checkpoint, unless one is pending."""
        if self._pending_checkpoint is None:
            name = self.checkpoints.next_name(self.recorder.steps)
            books = {"limiter": self.limiter.state_dict(), "recorder": self.recorder.state_dict()}
            self._pending_checkpoint = PendingCheckpoint(
                name, self.recorder.steps, books, self.fleet.begin_checkpoint(name)
            )

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
        self.forget("evaluator")
        while self.pending and time.monotonic() < deadline:
            self.take(timeout=0.5)
        busy = {task.index for task in self.forget("rollout")}
        if busy:
            logger.warning("rollout actors %s are still busy; saving without what they hold", sorted(busy))
        idle = [actor.flush.remote() for index, actor in enumerate(self.fleet.rollouts) if index not in busy]
        ray.wait(idle, num_returns=len(idle), timeout=None if math.isinf(budget_seconds) else budget_seconds)
        for _ in range(1 + self.config.actors.restarts):
            self._pending_checkpoint = None
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
        ValueError: An actor refused its part of the configuration, or the cluster is too small.
        OSError: The disk is full.
        RunFailed: A part died more often than it may, or a call failed.
    """
    limiter = build.limiter(config, lease_steps(config))
    if state is not None:
        limiter.load_state_dict(state["limiter"])
    fleet: Fleet | None = None
    try:
        imported = source_folders(config) if state is None else ()
        fleet = Fleet(config, run_dir, state["learner"] if state is not None else None, recorder.stages, imported)
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


def lease_steps(config: RunConfig) -> int:
    """Trained steps of one learner lease."""
    return config.cluster.updates_per_lease * build.batch_steps(config)
