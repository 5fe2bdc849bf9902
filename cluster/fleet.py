"""The actors of a run: how they are made, replaced and asked for their state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.replay.service import CONCURRENCY_GROUPS, ReplayShardActor, begin_checkpoint, retain_checkpoints
from actors.replay.store.layout import Layout, open_layout
from actors.rollout import RolloutLoop, next_incarnation
from actors.service import EvaluatorActor, RayPolicyServer, RolloutActor, ServingActor
from cluster import build
from cluster.config import RunConfig
from cluster.run_dir import RunDir
from cluster.seeding import derive_seed
from cluster.service import WeightStoreActor
from cluster.stages import StageCursor
from cluster.supervise import RestartBudget
from learner.service import LearnerActor

logger = logging.getLogger(__name__)

STATS_SECONDS = 2.0
"""How long the driver waits for a shard's figures before it goes on with the last ones."""


class Fleet:
    """The actors of a run and their handles.

    Args:
        config: The run.
        run_dir: Where the shards keep their files.
        learner_state: State of the learner to continue from, None to start.
        stages: Where the run is: actors that collect are made only if it still collects.
        imported: Shard folders of another replay that a new run begins with.

    Raises:
        ValueError: The cluster is too small for the run.
    """

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        learner_state: Mapping[str, Any] | None,
        stages: StageCursor,
        imported: tuple[Path, ...] = (),
    ) -> None:
        self.config = config
        self.ledgers = run_dir.ledgers if config.cluster.ledger else None
        check_resources(config)
        restarts = config.actors.restarts
        self.weights = spawn(WeightStoreActor, "weights", 0.0, max_restarts=restarts, max_task_retries=-1)()
        self._layout = open_layout(run_dir.replay, config.replay, imported)
        self.shards = self._start_shards(self._layout)
        self._stats: list[dict[str, float]] = ray.get([shard.stats.remote() for shard in self.shards])
        self.incarnation = self._next_incarnation()
        self._learner_gpus, self._serving_gpus = share_gpus(config, ray.cluster_resources().get("GPU", 0.0))
        num_servers, num_rollouts = config.serving.num_actors, config.actors.rollout_actors
        self.servers = [self._start_server(index) for index in range(num_servers if stages.collects else 0)]
        self.learner_budget = RestartBudget("learner", restarts)
        self.learners = self._start_learners(learner_state)
        self.rollout_budgets = [RestartBudget(f"rollout-{i}", restarts) for i in range(config.actors.rollout_actors)]
        self.rollouts = [self._start_rollout(index) for index in range(num_rollouts if stages.collects else 0)]
        self._evaluator: Any | None = None

    @property
    def inserted_steps(self) -> int:
        """Steps that shards have stored since the beginning of the run, as last known."""
        return int(sum(row["inserted_steps"] for row in self._stats))

    def replay_stats(self) -> dict[str, float]:
        """Sums of the shards' figures; a shard that is being restarted counts with its last ones."""
        calls = {shard.stats.remote(): index for index, shard in enumerate(self.shards)}
        for call in ray.wait(list(calls), num_returns=len(calls), timeout=STATS_SECONDS)[0]:
            try:
                self._stats[calls[call]] = ray.get(call)
            except RayActorError as error:
                logger.warning("replay-%d does not answer: %s", calls[call], first_line(error))
        return {f"replay/{name}": sum(row[name] for row in self._stats) for name in self._stats[0]}

    def replace_rollout(self, index: int, reason: str) -> None:
        """Start the next incarnation of a dead rollout actor.

        Raises:
            BudgetSpent: It died too often.
        """
        wait = self.rollout_budgets[index].spend(reason)
        logger.warning("rollout-%d died (%s); the next incarnation starts in %.1f s", index, reason, wait)
        time.sleep(wait)
        self.incarnation += 1
        self.rollouts[index] = self._start_rollout(index)

    def replace_learners(self, state: Mapping[str, Any] | None, reason: str) -> int:
        """Start the whole group of learner ranks again; the update count it continues from.

        Raises:
            BudgetSpent: It died too often.
        """
        wait = self.learner_budget.spend(reason)
        logger.warning("a learner rank died (%s); the group starts again in %.1f s", reason, wait)
        for learner in self.learners:
            ray.kill(learner)
        time.sleep(wait)
        self.learners = self._start_learners(state)
        return int(state["updates"]) if state is not None else 0

    def stop_collecting(self) -> None:
        """Let rollout actors and those that act for them go."""
        for actor in (*self.rollouts, *self.servers):
            ray.kill(actor)
        self.rollouts, self.servers = [], []

    def begin_checkpoint(self, name: str) -> list[Any]:
        """Calls that end with the learner's state, first, and with every shard's manifest `name` on disk."""
        return [self.learners[0].state_dict.remote(), *begin_checkpoint(self.shards, name)]

    def retain(self, names: list[str]) -> list[Any]:
        """Let the shards drop what only other checkpoints need; calls that end when they have."""
        self._layout.drop_older()  # the checkpoint that was just committed holds what was imported
        return retain_checkpoints(self.shards, names)

    def evaluator(self) -> Any:
        """The evaluator, started when it is first needed."""
        if self._evaluator is None:
            self._evaluator = spawn(EvaluatorActor, "evaluator", 0.0)(
                partial(build.evaluator, self.config, self.config.schedule.eval_episodes, 1),
                partial(build.policy, self.config),
                self.weights,
                self.config.algorithm.name,
            )
        return self._evaluator

    def drop_evaluator(self) -> None:
        """Forget a dead evaluator; the next evaluation starts another one."""
        self._evaluator = None

    def names(self) -> list[str]:
        """Names of the actors, for people."""
        servers = {self.config.serving.role: self.servers}
        count = {"rollout": self.rollouts, **servers, "learner": self.learners, "replay": self.shards}
        return ["weights", *(f"{role}-{index}" for role, actors in count.items() for index in range(len(actors)))]

    def stop(self) -> None:
        """Kill every actor of the run."""
        for actor in (*self.rollouts, *self.servers, *self.learners, *self.shards, self.weights):
            ray.kill(actor)  # the evaluator goes with the driver

    def _start_shards(self, layout: Layout) -> list[Any]:
        config = self.config
        restarts = config.actors.restarts
        groups = CONCURRENCY_GROUPS
        return [
            spawn(ReplayShardActor, f"replay-{index}", 0.0, groups, max_restarts=restarts, max_task_retries=-1)(
                config.replay,
                derive_seed(config.seed, "shard", index),
                index,
                str(layout.shard_folder(index)),
                sources=[str(path) for path in layout.sources],
            )
            for index in range(layout.num_shards)
        ]

    def _next_incarnation(self) -> int:
        """An incarnation that no stored stream has."""
        return next_incarnation(chain(*ray.get([shard.next_steps.remote() for shard in self.shards])))

    def _start_server(self, index: int) -> Any:
        serving, restarts, gpus = self.config.serving, self.config.actors.restarts, self._serving_gpus
        name = f"{serving.role}-{index}"
        return spawn(ServingActor, name, serving.cpus, num_gpus=gpus, max_restarts=restarts, max_task_retries=-1)(
            partial(build.policy, self.config, "cuda" if gpus else "cpu"),
            self.weights,
            serving.max_rows,
            serving.max_wait_ms,
            name,
        )

    def _start_rollout(self, index: int) -> Any:
        """A rollout actor of the present incarnation."""
        config = self.config
        server = self.servers[index % len(self.servers)] if self.servers else None
        name = f"rollout-{index}" if self.incarnation == 0 else f"rollout-{index}.{self.incarnation}"
        return spawn(RolloutActor, name, config.cluster.rollout_cpus)(
            partial(make_loop, config, server, index, self.incarnation),
            self.shards,
            self.weights if server is None else None,  # servers have weights of their own
            index,
            unapplied_bytes=config.replay.unapplied_bytes,
            num_actors=config.actors.rollout_actors,
            ledger=self.ledgers and self.ledgers / f"rollout-{index}.{self.incarnation}.txt",
        )

    def _start_learners(self, state: Mapping[str, Any] | None) -> list[Any]:
        config, ranks = self.config, self.config.cluster.learner_ranks
        suffix = f".{self.learner_budget.used}" if self.learner_budget.used else ""
        learners = [
            spawn(LearnerActor, f"learner-{rank}{suffix}", config.cluster.learner_cpus, num_gpus=self._learner_gpus)(
                partial(build.learner, config),
                partial(build.remote_batches, config, self.shards, rank),
                self.weights,
                config.schedule.publish_every,
                rank,
                ranks,
                config.cluster.broadcast,
                config.learner.device,
            )
            for rank in range(ranks)
        ]
        host, port = ray.get(learners[0].address.remote())
        restored = None if state is None else ray.put(state)
        ray.get([learner.start.remote(host, port, restored) for learner in learners])
        return learners


def make_loop(config: RunConfig, server: Any | None, index: int, incarnation: int) -> RolloutLoop:
    """The rollout loop of an actor, whose policy runs in `server` or, without one, in the actor's process."""
    policy = build.policy(config) if server is None else build.remote_policy(config, RayPolicyServer(server))
    return build.rollout_loop(config, policy, index, incarnation)


def share_gpus(config: RunConfig, available: float) -> tuple[float, float]:
    """GPUs of a learner rank and of a serving actor: learners come first, and a role gets all it asks for or none."""
    ranks, serving = config.cluster.learner_ranks, config.serving
    learner = config.cluster.learner_gpus if available >= ranks else 0.0
    enough = serving.num_actors * serving.gpus <= available - ranks * learner
    return learner, serving.gpus if enough else 0.0


def spawn(
    cls: type, name: str, num_cpus: float, groups: Mapping[str, int] | None = None, **options: Any
) -> Callable[..., Any]:
    """`cls(...)` as a named Ray actor, perhaps with concurrency groups."""
    actor: Any = ray.remote(concurrency_groups=dict(groups))(cls) if groups else ray.remote(cls)
    return actor.options(name=name, num_cpus=num_cpus, **options).remote  # type: ignore[no-any-return]


def check_resources(config: RunConfig) -> None:
    """Refuse a run that would wait for ever for CPUs.

    Raises:
        ValueError: The cluster has too few.
    """
    need, have = config.reserved_cpus, ray.cluster_resources().get("CPU", 0.0)
    if need > have:
        role = config.serving.role
        raise ValueError(
            f"the run reserves {need:g} CPUs and the Ray cluster has {have:g}: lower actors.rollout_actors, "
            f"actors.{role}_actors or cluster.rollout_cpus, cluster.{role}_cpus, cluster.learner_cpus"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0]
