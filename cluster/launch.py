"""The run on Ray: the parts of `cluster.local` as actors.

               leases                              leases
    driver ---------------> rollout-i      driver ----------> learner-r --publish--> weights
      ^    <-- summaries --    |  ^ actions  ^  <-- metrics --    ^                     |
      |                        |  +----- server-j <---------------|------ pull --------+
      |                        | blocks                           | batches             |
      |                        +-------------> replay-k ----------+                    |
      +-- stats ------------------------------/     rollout-i <----------- pull -------+

    driver --leases--> reanalyze-i <--batches, targets--> replay-k      reanalyze-i <--pull-- weights

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
| leases to reanalyze-i| 1 of 4 batches              | driver issues no more    | its metrics, or the pace    |
| weights              | the newest version          | older ones are dropped   |                             |

The limiter lives in the driver and is counted by leases: what a lease may insert or train is counted when it
is issued, so neither sampling nor inserting asks anyone. Stages that only collect or only train have leases of one
kind, and no limiter. A checkpoint is consistent: counters, learner and manifests
are taken in passing, and the shards write while everything goes on. What happens when a part dies:
`cluster.supervise`; whoever is to start again does so when it is due, while the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.reanalyze import Pace
from actors.replay.flow.limiter import SampleLimiter
from cluster import build
from cluster.checkpoints import Checkpoints
from cluster.config import RunConfig
from cluster.ending import Saved
from cluster.fleet import Fleet, in_words
from cluster.leases import Task, issue_evaluation
from cluster.liveness import Liveness
from cluster.offline import source_folders
from cluster.placement import Placement
from cluster.pulse import ask_to_stop
from cluster.recorder import Recorder
from cluster.roles import ROLES, Death, Role
from cluster.run_dir import RunDir
from cluster.saving import Saving
from cluster.signals import StopFlag
from cluster.stages import Interleave
from cluster.supervise import RunFailed
from envs.contract import ContractError
from envs.faults import SimulatorError
from learner.nonfinite import NonFiniteError

logger = logging.getLogger(__name__)

SAVE_SECONDS = 600.0
"""How long the last checkpoint of a run that has reached its end may take."""

CALLS_SHARE, FLUSH_SHARE = 0.4, 0.15
"""Shares of the stop budget for the calls in flight, and for storing what rollout actors hold."""

END_SECONDS, END_SHARE = 6.0, 0.3
"""What a stop leaves of its budget, at most this share, to end the actors and Ray."""

GROUP_DEATH_SECONDS = 20.0
"""How long after a failed update of one rank the death of another may come to light."""


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
        self.liveness = Liveness(config, fleet, self._note_death)
        self.saving = Saving(checkpoints, fleet)
        self.pace = Pace(config.reanalyze.steps_per_update, recorder.updates)
        self.ending = False  # whether the run is to stop, and calls end early
        self._filled = False

    def start(self, stopping: StopFlag) -> bool:
        """Wait for what the shards recover, then start who collects; False if the run is to stop before."""
        calls = self.fleet.ask_shards()
        if not self.wait(calls, stopping):
            return False
        self.fleet.start_collecting(ray.get(calls))
        self.limiter.recovered(self.fleet.inserted_steps)  # all that was acknowledged, also after the checkpoint
        self.recorder.recovered(self.fleet.inserted_steps, self.fleet.lost_steps)
        return True

    def loop(self, stopping: StopFlag) -> Saved:
        """Run until the schedule is done or `stopping` says so, then save a last checkpoint."""
        schedule, recorder = self.config.schedule, self.recorder
        while not recorder.finished and recorder.failure is None and not stopping:
            self.issue()
            self.take(timeout=0.5)
            if recorder.advance():
                self.settle(stopping)
            if not recorder.finished and recorder.due("log"):  # the last line comes after the last evaluation
                recorder.log({**self.fleet.replay_stats(), **self.limiter.metrics()})
            if recorder.due("checkpoint", schedule.checkpoint_seconds) and not recorder.finished:
                self.begin_checkpoint()
            self.saving.end()
        if recorder.failure is not None:
            until = time.monotonic() + self.config.cluster.stop_budget_seconds
            self.stop(lambda: until - time.monotonic())
            raise RunFailed(recorder.failure)
        return self.stop(stopping.left) if stopping else self.finish()

    def issue(self) -> None:
        """Give every role the work that the stage and the limiter allow now."""
        for role in ROLES.values():
            if role.work is not None:
                role.work.issue(self)
        if isinstance(self.recorder.stage, Interleave):
            self.limiter.watch(self.collect_steps, self.lease_steps, idle=not self.pending)

    def settle(self, stopping: StopFlag) -> None:
        """Wait until the replay holds what was collected; let actors go that no later stage needs."""
        self.wait(self.flush(()), stopping)
        if not self.recorder.stages.collects:
            self.fleet.stop_collecting()

    def flush(self, busy: Collection[tuple[str, int]]) -> list[Any]:
        """Calls that end when the replay holds what the actors have collected that are not busy."""
        flushes = []
        for role in ROLES.values():
            if role.work is not None:
                flushes += role.work.flush(self, {index for name, index in busy if name == role.name})
        return flushes

    def wait(self, calls: list[Any], enough: Callable[[], bool]) -> bool:
        """Wait for calls, while the watch goes on; whether they have ended before `enough` said so."""
        while calls and len(ray.wait(calls, num_returns=len(calls), timeout=0.2)[0]) < len(calls):
            if enough():
                return False
            self.look_after()
        return True

    def look_after(self) -> None:
        """Replace the actors that hang as those that die.

        Raises:
            BudgetSpent: One of them too often, or one that Ray restarts has died too often.
        """
        for hang in self.liveness.look(self.busy):
            if self.fleet.actors[hang.role.name][hang.index] is not None:  # not gone with its group
                self.died(hang.role, hang.index, hang.reason)

    @property
    def busy(self) -> set[tuple[str, int]]:
        """Role and index of the actors with calls in flight."""
        return {(task.role.name, task.index) for task in self.pending.values()}

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
        self.look_after()
        self.pending.update((call, task) for task, call in self.fleet.restart_due())
        timeout = min(timeout, self.fleet.seconds_to_restart())
        if not self.pending:
            time.sleep(min(timeout, 0.01))
            return
        if not ray.wait(list(self.pending), num_returns=1, timeout=timeout)[0]:
            return
        for reference in ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)[0]:
            task = self.pending.pop(reference, None)
            if task is None:  # forgotten with the part that died a moment ago
                continue
            try:
                result = ray.get(reference)
            except RayTaskError as error:  # before the next: it may be of that kind, too
                self.failed(task, error)
            except RayError as error:
                self.died(task.role, task.index, f"died ({in_words(error)})", task)
            else:
                assert task.role.work is not None
                task.role.work.book(self, task, result)

    def failed(self, task: Task, error: RayTaskError) -> None:
        """React to an exception of a call: of another actor's death, or of its own.

        Raises:
            ContractError: An environment is wrong: no other actor would do better.
            RunFailed: The call would fail again, or what it called is dead for good.
        """
        cause, part = error.cause, f"{task.role.name}-{task.index}"
        if isinstance(cause, ContractError):
            raise cause from None
        if isinstance(cause, NonFiniteError):
            raise RunFailed(str(cause)) from None
        if isinstance(cause, SimulatorError):
            self.recorder.fail(f"{part}: {cause}")
        elif isinstance(cause, RayActorError):
            self.liveness.check_restarted()
            name = self.fleet.part_of(cause) or "an actor that it called"
            self.died(task.role, task.index, f"lost {name}", task)
        elif task.role.death is Death.GROUP and self.fleet.another_died(task.role):
            self.died(task.role, task.index, f"failed with another of its group ({in_words(error)})", task)
        else:
            raise RunFailed(f"{part} failed: {in_words(error)}") from error

    def died(self, role: Role, index: int, reason: str, *calls: Task) -> None:
        """React to the end of an actor, see `cluster.supervise`.

        Args:
            role: Its role.
            index: Its index.
            reason: What is said of it.
            calls: Calls to it that are not pending any more.

        Raises:
            BudgetSpent: It died too often.
        """
        self._note_death(f"{role.name}-{index}", reason)
        lost = [*calls, *self.forget(role, None if role.death is Death.GROUP else index)]
        self.fleet.died(role, index, reason)
        assert role.work is not None
        role.work.lose(self, lost)

    def _note_death(self, part: str, reason: str) -> None:
        self.run_dir.event(event="died", part=part, reason=reason, step=self.recorder.steps)

    def forget(self, role: Role, index: int | None = None) -> list[Task]:
        """Take the calls of a part out of the books, of all actors of the role by default."""
        lost = [ref for ref, task in self.pending.items() if task.role is role and index in (None, task.index)]
        return [self.pending.pop(reference) for reference in lost]

    def begin_checkpoint(self) -> bool:
        """Begin a checkpoint of now, if that can be; whether one is pending."""
        books = {"limiter": self.limiter.state_dict(), "recorder": self.recorder.state_dict()}
        return self.saving.begin(self.recorder.steps, books)

    def finish(self) -> Saved:
        """Let the calls in flight end, evaluate, store what rollout actors hold, and save a last checkpoint.

        Raises:
            RunFailed: The checkpoint could not be written.
        """
        issue_evaluation(self)
        while self.pending:
            self.take(timeout=0.5)
            issue_evaluation(self)  # of the last step, when an earlier one has ended
        self.wait(self.flush(()), lambda: False)
        if self.recorder.due("log"):
            self.recorder.log({**self.fleet.replay_stats(), **self.limiter.metrics()})
        for _ in range(1 + self.config.actors.restarts):
            if self.save(SAVE_SECONDS):
                return self.checkpoints.saved()
        raise RunFailed("the last checkpoint could not be written: learner or shards do not answer")

    def stop(self, left: Callable[[], float]) -> Saved:
        """As `finish`, but within what is `left` of the stop budget, and without what does not answer until then."""
        budget = left()
        reserve = min(END_SECONDS, END_SHARE * budget)
        self.ending = True
        ask_to_stop()
        for role in ROLES.values():
            if role.death is Death.DROP:
                self.forget(role)
        left_out: list[str] = []
        is_saved = False
        try:
            while self.pending and left() > (1 - CALLS_SHARE) * budget:
                try:
                    self.take(timeout=0.2)
                except RunFailed as error:  # no reason to lose what the others have
                    left_out.append(str(error))
            busy = self.busy
            self.pending.clear()
            left_out += [f"{name}-{index}: its call has not ended" for name, index in sorted(busy)]
            if not self.wait(self.flush(busy), lambda: left() < (1 - CALLS_SHARE - FLUSH_SHARE) * budget):
                left_out.append("rollout actors: not all that they hold is stored")
            is_saved = self.save(left() - reserve)
        except RunFailed as error:
            left_out.append(str(error))
        if not is_saved:
            silent = self.liveness.silent(2.0)
            left_out.append(f"all since that checkpoint: {', '.join(silent) or 'learner or shards'} did not answer")
        for line in left_out:
            logger.warning("the stop leaves out %s", line)
        return self.checkpoints.saved(left_out)

    def save(self, seconds: float) -> bool:
        """Save a checkpoint of now; whether that was possible within so many seconds."""
        self.saving.give_up()
        until = time.monotonic() + seconds

        def late() -> bool:
            return time.monotonic() >= until

        while not self.begin_checkpoint():
            if late():
                return False
            self.take(timeout=0.2)
        pending = self.saving.pending
        assert pending is not None
        if self.wait(pending.calls, late) and self.saving.end():
            self.wait(self.saving.retaining, late)
            return True
        self.saving.give_up()
        return False


def run(
    config: RunConfig,
    recorder: Recorder,
    checkpoints: Checkpoints,
    stopping: StopFlag,
    state: Mapping[str, Any] | None,
    run_dir: RunDir,
) -> Saved:
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
            return checkpoints.saved()
        state_of_learner = None if state is None else state["learner"]
        imported = source_folders(config) if state is None else ()
        fleet = Fleet(config, run_dir, state_of_learner, placement, recorder.stages, imported)
        run = Run(config, recorder, checkpoints, fleet, limiter, run_dir)
        if not run.start(stopping):
            return checkpoints.saved()
        logger.info("Ray: %d node(s); actors: %s", len(ray.nodes()), " ".join(fleet.names()))
        return run.loop(stopping)
    except RayTaskError as error:
        if isinstance(error.cause, (ValueError, OSError)):  # bad input or a full disk that only the actor could see
            raise error.cause from None
        raise RunFailed(f"an actor failed: {in_words(error)}") from error
    except RayActorError as error:
        part = fleet.part_of(error) if fleet is not None else None
        raise RunFailed(f"{part or 'an actor'} died: {in_words(error)}") from error
    finally:
        if fleet is not None:
            fleet.stop()
        placement.remove()


def lease_steps(config: RunConfig) -> int:
    """Trained steps of one learner lease."""
    return config.cluster.updates_per_lease * build.batch_steps(config)
