"""The run on Ray: the parts of `cluster.local` as actors.

               permits                              permits
    driver ---------------> rollout-i      driver ----------> learner-r --publish--> weights
      ^    <-- summaries --    |  ^ plans    ^  <-- metrics --    ^                     |
      |                        |  +----- planner-j <--------------|------ pull --------+
      |                        | blocks                           | batches             |
      |                        +-------------> replay-k ----------+                    |
      +-- stats ------------------------------/     rollout-i <----------- pull -------+

Who waits for whom (backpressure):

| queue                | holds at most               | the producer then        | unblocked by                |
|----------------------|-----------------------------|--------------------------|-----------------------------|
| permits to rollout-i | 2 collects                  | driver issues no more    | a summary, or the limiter   |
| blocks to replay-k   | 4 messages of an actor      | rollout actor waits      | the shard's acknowledgement |
| requests to planner-j| 1 of a rollout actor        | rollout actor waits      | its plan                    |
| permits to learner-r | 1 of `updates_per_permit`   | driver issues no more    | its metrics, or the limiter |
| batches to learner-r | `sample_in_flight` + 1      | learner asks for no more | the learner's next update   |
| weights              | the newest version          | older ones are dropped   |                             |

The limiter lives in the driver and is leased by permits: what a permit may insert or train is counted when it
is issued, so neither sampling nor inserting asks anyone. What happens when a part dies: `cluster.supervise`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.replay.service import ReplayShardActor
from actors.service import EvaluatorActor, PlannerActor, RolloutActor, remote_plan
from cluster import build
from cluster.config import RunConfig
from cluster.local import SaveCheckpoint
from cluster.recorder import Recorder
from cluster.run_dir import RunDir
from cluster.seeding import derive_seed
from cluster.service import WeightStoreActor
from cluster.supervise import RestartBudget, RunFailed
from learner.service import LearnerActor

logger = logging.getLogger(__name__)

PERMITS_AHEAD = 2
"""Collects a rollout actor may hold, so that it never waits for the driver."""


@dataclass(frozen=True)
class Task:
    """A call in flight."""

    role: str  # rollout, learner or evaluator
    index: int
    steps: int  # environment steps or trained steps leased to it


class Fleet:
    """The actors of a run and their handles.

    Args:
        config: The run.
        state: Parts of the checkpoint to continue from, None to start.

    Raises:
        ValueError: The cluster is too small for the run.
    """

    def __init__(self, config: RunConfig, state: Mapping[str, Any] | None) -> None:
        self.config = config
        self.incarnation = int(state["rollout"]["incarnation"]) if state is not None else 0
        check_resources(config)
        actors, cluster = config.actors, config.cluster
        self.weights = spawn(WeightStoreActor, "weights", 0.0)()
        seeds = [derive_seed(config.seed, "shard", index) for index in range(config.replay.num_shards)]
        self.shards = [
            spawn(ReplayShardActor, f"replay-{index}", 0.0)(config.replay, seed, index)
            for index, seed in enumerate(seeds)
        ]
        if state is not None:
            ray.get([s.load_state_dict.remote(part) for s, part in zip(self.shards, state["replay"], strict=True)])
        self.planners = [
            spawn(
                PlannerActor,
                f"planner-{index}",
                cluster.planner_cpus,
                max_restarts=actors.restarts,
                max_task_retries=-1,
            )(partial(build.plan_source, config), self.weights, actors.planner_batch, actors.planner_wait_ms, index)
            for index in range(actors.planner_actors)
        ]
        self.learners = self._start_learners(state)
        self.rollouts = [self.start_rollout(index) for index in range(actors.rollout_actors)]
        self.budgets = [RestartBudget(f"rollout-{index}", actors.restarts) for index in range(actors.rollout_actors)]

    def start_rollout(self, index: int) -> Any:
        """A rollout actor of the present incarnation."""
        config = self.config
        planner = self.planners[index % len(self.planners)] if self.planners else None
        name = f"rollout-{index}" if self.incarnation == 0 else f"rollout-{index}.{self.incarnation}"
        weights = None if planner is not None else self.weights  # planners have weights of their own
        return spawn(RolloutActor, name, config.cluster.rollout_cpus)(
            partial(make_loop, config, planner, index, self.incarnation),
            self.shards,
            weights,
            index,
            unapplied_bytes=config.replay.unapplied_bytes,
            num_actors=config.actors.rollout_actors,
        )

    def replace_rollout(self, index: int, reason: str) -> None:
        """Start the next incarnation of a dead rollout actor.

        Raises:
            BudgetSpent: It died too often.
        """
        wait = self.budgets[index].spend(reason)
        logger.warning("rollout-%d died (%s); the next incarnation starts in %.1f s", index, reason, wait)
        time.sleep(wait)
        self.incarnation += 1
        self.rollouts[index] = self.start_rollout(index)

    def checkpoint(self, busy: Container[int] = ()) -> dict[str, Any]:
        """State of all actors; rollout actors but the `busy` ones push what they hold and open new streams."""
        self.incarnation += 1
        for actor in (actor for index, actor in enumerate(self.rollouts) if index not in busy):
            try:
                ray.get(actor.restart.remote(self.incarnation))
            except RayActorError as error:
                logger.warning("a rollout actor is away during the checkpoint: %s", first_line(error))
        return {
            "learner": ray.get(self.learners[0].state_dict.remote()),
            "replay": ray.get([shard.state_dict.remote() for shard in self.shards]),
            "rollout": {"incarnation": self.incarnation},
        }

    def replay_stats(self) -> dict[str, float]:
        """Sums of the shards' figures."""
        rows = ray.get([shard.stats.remote() for shard in self.shards])
        return {f"replay/{name}": sum(row[name] for row in rows) for name in rows[0]}

    def names(self) -> list[str]:
        """Names of the actors, for people."""
        count = {"rollout": self.rollouts, "planner": self.planners, "learner": self.learners, "replay": self.shards}
        return ["weights", *(f"{role}-{index}" for role, actors in count.items() for index in range(len(actors)))]

    def stop(self) -> None:
        """Kill every actor of the run."""
        for actor in (*self.rollouts, *self.planners, *self.learners, *self.shards, self.weights):
            ray.kill(actor)  # the evaluator goes with the driver

    def _start_learners(self, state: Mapping[str, Any] | None) -> list[Any]:
        config, ranks = self.config, self.config.cluster.learner_ranks
        gpus = config.cluster.learner_gpus if ray.cluster_resources().get("GPU", 0.0) >= ranks else 0.0
        learners = [
            spawn(LearnerActor, f"learner-{rank}", config.cluster.learner_cpus, num_gpus=gpus)(
                partial(build.learner, config),
                partial(build.remote_batches, config, self.shards, rank),
                self.weights,
                config.schedule.publish_every,
                rank,
                ranks,
            )
            for rank in range(ranks)
        ]
        host, port = ray.get(learners[0].address.remote())
        restored = None if state is None else ray.put(state["learner"])
        ray.get([learner.start.remote(host, port, restored) for learner in learners])
        return learners


class Run:
    """The driver's loop: issues permits within the limiter's allowance and books what comes back."""

    def __init__(self, config: RunConfig, recorder: Recorder, fleet: Fleet, limiter: Any, run_dir: RunDir) -> None:
        self.config, self.recorder, self.fleet, self.limiter, self.run_dir = config, recorder, fleet, limiter, run_dir
        self.pending: dict[Any, Task] = {}
        self.collect_steps = build.collect_steps(config)
        self.permit_steps = permit_steps(config)
        self._filled = False
        self._evaluator: Any | None = None

    def loop(self, save: SaveCheckpoint, stopping: Callable[[], bool]) -> None:
        """Run until the schedule is done or `stopping` says so, then save a last checkpoint."""
        schedule, recorder = self.config.schedule, self.recorder
        while not recorder.finished and not stopping():
            self.issue()
            self.take(timeout=0.5)
            if recorder.due("eval"):
                self.evaluate()
            if recorder.due("log"):
                recorder.log(self.fleet.replay_stats())
            if recorder.due("checkpoint", schedule.checkpoint_seconds) and not recorder.finished:
                self.checkpoint(save)
        self.checkpoint(save, self.config.cluster.stop_budget_seconds)

    def checkpoint(self, save: SaveCheckpoint, budget_seconds: float = math.inf) -> None:
        """Let the calls in flight end, then save the state of all parts.

        Rollout actors that are not done within the budget are left out: what they hold no shard has acknowledged.
        """
        deadline = time.monotonic() + budget_seconds
        while any(task.role != "evaluator" for task in self.pending.values()) and time.monotonic() < deadline:
            self.take(timeout=0.5)
        busy = {task.index for task in self.pending.values() if task.role == "rollout"}
        if busy:
            logger.warning(
                "%d rollout actors are still busy after %.0f s; saving without them", len(busy), budget_seconds
            )
        state = self.fleet.checkpoint(busy)
        save({**state, "limiter": self.limiter.state_dict(), "recorder": self.recorder.state_dict()})

    def issue(self) -> None:
        """Give every actor the permits that the limiter allows."""
        in_flight = sum(task.steps for task in self.pending.values() if task.role == "rollout")
        left = self.config.schedule.total_steps - self.recorder.steps - in_flight
        for index, actor in enumerate(self.fleet.rollouts):
            held = sum(task.role == "rollout" and task.index == index for task in self.pending.values())
            while held < PERMITS_AHEAD and left > 0 and self.limiter.can_insert(self.collect_steps):
                self.limiter.inserted(self.collect_steps)
                self.send(actor.run.remote(self.config.actors.ticks_per_collect), "rollout", index, self.collect_steps)
                held, left = held + 1, left - self.collect_steps
        training = any(task.role == "learner" for task in self.pending.values())
        if not training and self.limiter.can_sample(self.permit_steps) and self.filled():
            self.limiter.sampled(self.permit_steps)
            for rank, learner in enumerate(self.fleet.learners):
                self.send(
                    learner.train.remote(self.config.cluster.updates_per_permit), "learner", rank, self.permit_steps
                )

    def filled(self) -> bool:
        """Whether the shards hold enough to start on; leased inserts are counted before they are there."""
        if not self._filled:
            self._filled = self.fleet.replay_stats()["replay/steps"] >= self.config.replay.limiter.min_size
        return self._filled

    def send(self, reference: Any, role: str, index: int, steps: int) -> None:
        """Note a call in flight."""
        self.pending[reference] = Task(role, index, steps)

    def take(self, timeout: float | None) -> None:
        """Wait for one call to end and book it.

        Raises:
            RunFailed: A part died that the run cannot replace, or a call failed.
        """
        if not self.pending:
            time.sleep(0.01)
            return
        for reference in ray.wait(list(self.pending), num_returns=1, timeout=timeout)[0]:
            task = self.pending.pop(reference)
            try:
                self.book(task, ray.get(reference))
            except RayActorError as error:
                self.died(task, first_line(error))
            except RayTaskError as error:
                raise RunFailed(
                    f"{task.role}-{task.index} failed: {type(error.cause).__name__}: {error.cause}"
                ) from error

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
            self.limiter.release(task.steps)
            lost = [ref for ref, other in self.pending.items() if (other.role, other.index) == (task.role, task.index)]
            for reference in lost:
                self.limiter.release(self.pending.pop(reference).steps)
            self.fleet.replace_rollout(task.index, reason)
        elif task.role == "evaluator":
            logger.warning("the evaluator died (%s); its evaluation is dropped", reason)
            self._evaluator = None
        else:
            raise RunFailed(f"{task.role}-{task.index} died: {reason}")

    def evaluate(self) -> None:
        """Start an evaluation of the newest weights, unless one is going on."""
        if any(task.role == "evaluator" for task in self.pending.values()):
            return
        if self._evaluator is None:
            self._evaluator = spawn(EvaluatorActor, "evaluator", 0.0)(
                partial(build.evaluator, self.config, self.config.schedule.eval_episodes, 1),
                partial(build.policy, self.config),
                self.fleet.weights,
                self.config.algorithm.name,
            )
        self.send(self._evaluator.run.remote(), "evaluator", 0, 0)


def run(
    config: RunConfig,
    recorder: Recorder,
    save: SaveCheckpoint,
    stopping: Callable[[], bool],
    state: Mapping[str, Any] | None,
    run_dir: RunDir,
) -> None:
    """Train on the connected Ray cluster until the schedule is done or `stopping` says so.

    Args:
        config: The run.
        recorder: Counts, logs and says what is due.
        save: Gets the state at every checkpoint.
        stopping: Asked at every turn of the driver's loop.
        state: Parts of the checkpoint to continue from, None to start.
        run_dir: Where deaths and restarts are noted.

    Raises:
        ValueError: An actor refused its part of the configuration, or the cluster is too small.
        RunFailed: A part died that the run cannot replace, or a call failed.
    """
    limiter = build.limiter(config, permit_steps(config))
    if state is not None:
        limiter.load_state_dict(state["limiter"])
    fleet: Fleet | None = None
    try:
        fleet = Fleet(config, state)
        logger.info("Ray: %d node(s); actors: %s", len(ray.nodes()), " ".join(fleet.names()))
        Run(config, recorder, fleet, limiter, run_dir).loop(save, stopping)
    except RayActorError as error:
        raise RunFailed(f"an actor died: {first_line(error)}") from error
    except RayTaskError as error:
        if isinstance(error.cause, ValueError):  # bad input that only the actor could see
            raise error.cause from None
        raise RunFailed(f"an actor failed: {type(error.cause).__name__}: {error.cause}") from error
    finally:
        if fleet is not None:
            fleet.stop()


def make_loop(config: RunConfig, planner: Any | None, index: int, incarnation: int) -> Any:
    """The rollout loop of an actor, planning with `planner` or, without one, in its own process."""
    plan = None if planner is None else remote_plan(planner)
    return build.rollout_loop(config, build.policy(config, plan), index, incarnation)


def permit_steps(config: RunConfig) -> int:
    """Trained steps of one learner permit."""
    return config.cluster.updates_per_permit * build.batch_steps(config)


def spawn(cls: type, name: str, num_cpus: float, **options: Any) -> Callable[..., Any]:
    """`cls(...)` as a named Ray actor."""
    actor: Any = ray.remote(cls)
    return actor.options(name=name, num_cpus=num_cpus, **options).remote  # type: ignore[no-any-return]


def check_resources(config: RunConfig) -> None:
    """Refuse a run that would wait for ever for CPUs.

    Raises:
        ValueError: The cluster has too few.
    """
    need, have = config.reserved_cpus, ray.cluster_resources().get("CPU", 0.0)
    if need > have:
        raise ValueError(
            f"the run reserves {need:g} CPUs and the Ray cluster has {have:g}: lower actors.rollout_actors, "
            "actors.planner_actors or cluster.rollout_cpus, cluster.planner_cpus, cluster.learner_cpus"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0]
