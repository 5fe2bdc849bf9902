"""Who gives the roles their work, and how it is booked: leases for rollout actors and learners, evaluations when due.

A lease is a call that takes some steps, which the limiter counts when the lease is issued. The functions of a `Work`
act on the driver's books (`cluster.launch.Run`); `cluster.roles` says which role has which.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.stages import Collect, Fit, Interleave

if TYPE_CHECKING:
    from cluster.launch import Run
    from cluster.roles import Role

logger = logging.getLogger(__name__)

LEASES_AHEAD = 2
"""Collects a rollout actor may hold, so that it never waits for the driver."""


@dataclass(frozen=True)
class Task:
    """A call in flight."""

    role: Role
    index: int
    steps: int = 0  # environment steps or trained steps leased to it


def _nothing(run: Run, lost: Collection[Task]) -> None:
    """Give nothing back."""


@dataclass(frozen=True)
class Work:
    """How the driver keeps the actors of a role at work.

    Args:
        issue: Sends what may be sent now; called at every turn of the driver's loop.
        book: Books the result of a call.
        lose: Takes back what was counted for calls that died with their actor, before the actor is replaced.
        flush: Calls that make the idle actors store what they hold, at the end of the run.
    """

    issue: Callable[[Run], None]
    book: Callable[[Run, Task, Any], None]
    lose: Callable[[Run, Collection[Task]], None] = _nothing
    flush: Callable[[Run, Collection[int]], list[Any]] = lambda run, busy: []


def issue_collects(run: Run) -> None:
    """Every rollout actor up to `LEASES_AHEAD` collects, as far as stage and limiter allow; `Collect` has none."""
    stage = run.recorder.stage
    if isinstance(stage, Fit):
        return
    held_by = Counter(task.index for task in run.tasks("rollout"))
    left = run.recorder.left - held_by.total() * run.collect_steps
    for index, actor in enumerate(run.fleet.actors["rollout"]):
        held = held_by[index]
        while actor and held < LEASES_AHEAD and left > 0:
            if not (isinstance(stage, Collect) or run.limiter.can_insert(run.collect_steps)):
                return
            run.limiter.inserted(run.collect_steps)
            run.send(actor.run.remote(run.config.actors.ticks_per_collect), "rollout", index, run.collect_steps)
            held, left = held + 1, left - run.collect_steps


def book_collect(run: Run, task: Task, summary: Any) -> None:
    """Count the steps of a `RolloutSummary`."""
    seconds = {"env": summary.env_seconds, "policy": summary.policy_seconds, "push": summary.push_seconds}
    run.limiter.release(task.steps - summary.steps)  # fewer when the run is to stop
    if not summary.steps:
        return
    run.recorder.rollout(summary.steps, summary.episodes, summary.metrics)
    run.recorder.faults(summary.actor, summary.steps, summary.faults)
    lag = max(0, run.recorder.updates - summary.policy_version)  # updates newer than the actions' weights
    run.recorder.add({"policy_lag": lag, "policy_version": summary.policy_version}, "rollout/")
    run.recorder.add({name: value / summary.steps * 1e6 for name, value in seconds.items()}, "timing/us_per_step_")


def lose_collects(run: Run, lost: Collection[Task]) -> None:
    """The limiter takes back the steps that will not come."""
    run.limiter.release(sum(task.steps for task in lost))


def flush_collects(run: Run, busy: Collection[int]) -> list[Any]:
    """Idle rollout actors push their unfinished blocks."""
    if busy:
        logger.warning("rollout actors %s are still busy; saving without what they hold", sorted(busy))
    actors = enumerate(run.fleet.actors["rollout"])
    return [actor.flush.remote() for index, actor in actors if actor and index not in busy]


def issue_updates(run: Run) -> None:
    """All ranks the same updates, one lease at a time: what the limiter allows, or what a `Fit` has left."""
    ranks, most = run.fleet.actors["learner"], run.config.cluster.updates_per_lease
    if not all(ranks) or any(run.tasks("learner")):
        return
    match run.recorder.stage:
        case Interleave() if run.limiter.can_sample(run.lease_steps) and run.filled():
            run.limiter.sampled(run.lease_steps)
            batches, part = most, None
        case Fit(part=part):
            batches = min(most, math.ceil(run.recorder.left / run.config.learner.updates_per_step))
        case _:
            return
    if batches > 0:
        for rank, learner in enumerate(ranks):
            run.send(learner.train.remote(batches, part), "learner", rank, run.lease_steps)


def book_updates(run: Run, task: Task, result: Any) -> None:
    """Note the metrics of rank 0; a rank that has joined its group answers without steps."""
    if task.index or not task.steps:
        return
    updates, metrics = result
    if run.ending and isinstance(run.recorder.stage, Interleave):  # it may have done less than it was to
        skipped, _ = metrics.get("nonfinite", (0.0, 0))
        batches = (updates - run.recorder.updates + int(skipped)) // run.config.learner.updates_per_step
        undone = run.lease_steps - batches * run.lease_steps // run.config.cluster.updates_per_lease
        run.limiter.redo(run.limiter.num_sampled - max(0, undone))
    run.recorder.learner(updates, metrics)


def lose_updates(run: Run, lost: Collection[Task]) -> None:
    """The group will go on from the newest checkpoint; the limiter takes back the updates since then."""
    run.saving.give_up()  # it waits for a learner that is gone
    state = run.fleet.learner_state = run.checkpoints.newest_learner()
    updates = int(state["updates"]) if state is not None else 0
    again = run.recorder.updates - updates
    counted = 1.0 - run.recorder.stages.fitted(updates) / max(1, updates)  # share of the updates outside Fit stages
    samples = state["samples"] * run.config.count("learner") if state is not None else 0
    run.limiter.redo(round(samples * counted))
    run.recorder.learner(updates, {})
    run.run_dir.event(event="restarted", part="learner", updates=updates, lost=again, step=run.recorder.steps)
    logger.warning("the learner continues from update %d, %d updates are done again", updates, again)


REANALYZE_BATCHES = 4
"""Batches of a call to a reanalyzer: enough for the driver to be no bottleneck, few enough for newer weights."""


def issue_reanalysis(run: Run) -> None:
    """Every idle reanalyzer some batches, as far as the pace allows, while the learner trains and has weights."""
    actors = run.fleet.actors.get("reanalyze", ())
    if not actors or run.recorder.updates == 0:
        return
    match run.recorder.stage:
        case Interleave() if run.filled():
            pass
        case Fit(part=None):
            pass
        case _:
            return
    steps = REANALYZE_BATCHES * run.config.reanalyze.batch_size
    busy = {task.index for task in run.tasks("reanalyze")}
    for index in range(len(actors)):
        if index in busy:
            continue
        if not run.pace.allows(steps, run.recorder.updates):
            return
        run.pace.took(steps)
        run.send(run.fleet.actor("reanalyze", index).run.remote(REANALYZE_BATCHES), "reanalyze", index, steps)


def book_reanalysis(run: Run, task: Task, result: Any) -> None:
    """Note the metrics of a `ReanalyzeSummary`."""
    run.pace.took(result.steps - task.steps)
    if result.steps:
        lag = max(0, run.recorder.updates - result.version)  # updates newer than the weights that searched
        run.recorder.reanalyzed(result.steps, {**result.metrics, "lag": lag})


def lose_reanalysis(run: Run, lost: Collection[Task]) -> None:
    """What was not searched may be searched by others."""
    run.pace.took(-sum(task.steps for task in lost))


def issue_evaluation(run: Run) -> None:
    """An evaluation of the newest weights when one is due, unless one is going on."""
    if not any(run.tasks("evaluator")) and run.recorder.due("eval"):  # due until it can begin
        run.send(run.fleet.actor("evaluator", 0).run.remote(), "evaluator", 0)


def book_evaluation(run: Run, task: Task, evaluation: Any) -> None:
    """Put its summary into the metrics."""
    run.recorder.evaluation(evaluation.summary)
