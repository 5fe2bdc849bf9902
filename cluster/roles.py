"""The roles of a run: one record says all that tells a kind of actor from the others.

To add a role, add a record to `ROLES` and write what it names; docs/extending/role.md does it once. Factories import
what they need when they are called: configurations read this table in processes that never start Ray.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from actors.ledger import Ledger
from cluster import leases
from cluster.build import family
from cluster.leases import Work
from cluster.role_config import ActorConfig, OptionalRoleConfig, RoleConfig, ServingConfig
from cluster.seeding import derive_seed

if TYPE_CHECKING:
    from actors.rollout import RolloutLoop
    from cluster.config import RunConfig
    from cluster.fleet import Fleet
    from learner.learner_config import DeviceName


class Death(Enum):
    """What follows when an actor dies. Each but `DROP` is bounded by `actors.restarts`."""

    REPLACE = "the driver starts its next incarnation"
    RESTART = "Ray starts it again behind the same handle, and sends again what it had not answered"
    GROUP = "the driver starts all actors of the role again"
    DROP = "its work is dropped, and it starts again with the next; it also starts only with its first"


@dataclass(frozen=True)
class Role:
    """One kind of actor.

    Args:
        name: Its name, and that of its section `roles.<name>`.
        section: The section's type and defaults.
        count: How many there are in a run, from its configuration and the section.
        factory: Starts actor `index` with the Ray options it is given; its handle.
        death: What its death means.
        work: Who gives it work, and how that is booked; None if it works for other actors, on their requests.
        join: Calls that make a group of started actors ready for work, if that takes any.
        closes: Whether `close` is to be called before it is killed: it holds simulators.
        collects: Whether it is there for collecting alone, and ends when no later stage collects.
        pulse: Whether it tells by itself that it lives (`cluster.pulse`); if not, it is pinged. Both as the section's
            `timeout_seconds` demands.
        step_seconds: How long one step of its work may take beside that, if it has a pulse; infinity for no limit.
    """

    name: str
    section: ActorConfig
    count: Callable[[RunConfig, Any], int]
    factory: Callable[[Fleet, int, dict[str, Any]], Any]
    death: Death
    work: Work | None = None
    join: Callable[[Fleet], list[Any]] | None = None
    closes: bool = False
    collects: bool = False
    pulse: bool = False
    step_seconds: Callable[[RunConfig], float] = lambda config: 0.0


UPDATE_SECONDS = 600.0
"""How long one update of the learner may take."""


def serving_role(config: RunConfig) -> str:
    """The role whose actors act for rollout actors."""
    return family(config).serving


def configured(config: RunConfig, section: Any) -> int:
    """As many actors as the section of the role says."""
    return int(section.count)


def _start_weights(fleet: Fleet, index: int, options: dict[str, Any]) -> Any:
    import ray

    from cluster.service import WeightStoreActor

    return ray.remote(WeightStoreActor).options(**options).remote()


def _start_shard(fleet: Fleet, index: int, options: dict[str, Any]) -> Any:
    import ray

    from actors.replay.service import CONCURRENCY_GROUPS, ReplayShardActor

    config, layout = fleet.config, fleet.layout
    actor: Any = ray.remote(concurrency_groups=dict(CONCURRENCY_GROUPS))(ReplayShardActor)
    return actor.options(**options).remote(
        config.viewed_replay,
        derive_seed(config.seed, "shard", index),
        index,
        str(layout.shard_folder(index)),
        sources=[str(path) for path in layout.sources],
    )


def _start_learner(fleet: Fleet, index: int, options: dict[str, Any]) -> Any:
    import ray

    from cluster import build
    from cluster.pulse import start_pulse
    from learner.service import LearnerActor

    config = fleet.config
    actor: Any = ray.remote(LearnerActor)
    return actor.options(**options).remote(
        partial(build.learner, config, rank=index, bundles=fleet.bundles),
        partial(build.remote_batches, config, fleet.actors["replay"], index),
        fleet.weights,
        config.schedule.publish_every,
        index,
        config.count("learner"),
        config.cluster.broadcast,
        config.learner.device,
        partial(start_pulse, options["name"]),
    )


def _join_learners(fleet: Fleet) -> list[Any]:
    """Every rank meets rank 0 and restores the newest checkpoint."""
    import ray

    ranks = fleet.actors["learner"]
    state = None if fleet.learner_state is None else ray.put(fleet.learner_state)
    address = ranks[0].address.remote()
    return [rank.start.remote(address, state) for rank in ranks]


def _start_server(fleet: Fleet, index: int, options: dict[str, Any], name: str) -> Any:
    import ray

    from actors.service import ServingActor
    from cluster import build

    section = fleet.config.roles[name]
    assert isinstance(section, ServingConfig)
    actor: Any = ray.remote(ServingActor)
    return actor.options(**options).remote(
        partial(build.policy, fleet.config, "cuda" if options.get("num_gpus") else "cpu"),
        partial(ray.get_actor, fleet.ray_names["weights", 0]),
        section.max_rows,
        section.max_wait_ms,
        f"{name}-{index}",
    )


def _start_rollout(fleet: Fleet, index: int, options: dict[str, Any]) -> Any:
    import ray

    from actors.service import RolloutActor
    from cluster.pulse import start_pulse

    config, servers = fleet.config, fleet.actors[serving_role(fleet.config)]
    server = servers[index % len(servers)] if servers else None
    actor: Any = ray.remote(RolloutActor)
    return actor.options(**options).remote(
        partial(make_loop, config, server, index, fleet.incarnation),
        fleet.actors["replay"],
        fleet.weights if server is None else None,  # servers have weights of their own
        index,
        unapplied_bytes=config.replay.unapplied_bytes,
        num_actors=config.count("rollout"),
        make_ledger=fleet.ledgers
        and partial(
            Ledger,
            fleet.ledgers / f"rollout-{index}.{fleet.incarnation}.txt",
            config.replay.durability.mode == "sync",
        ),
        make_pulse=partial(start_pulse, options["name"]),
    )


def make_loop(config: RunConfig, server: Any | None, index: int, incarnation: int) -> RolloutLoop:
    """The rollout loop of an actor, whose policy runs in `server` or, without one, in the actor's process."""
    from actors.service import RayPolicyServer
    from cluster import build

    policy = build.policy(config) if server is None else build.remote_policy(config, RayPolicyServer(server))
    return build.rollout_loop(config, policy, index, incarnation, _end_process)


def _end_process(reason: str) -> None:
    """End the process of an actor, which is then replaced."""
    sys.stderr.write(f"{reason}; its actor ends and is replaced\n")
    sys.stderr.flush()
    os._exit(1)


def _start_evaluator(fleet: Fleet, index: int, options: dict[str, Any]) -> Any:
    import ray

    from actors.service import EvaluatorActor
    from cluster import build
    from cluster.pulse import start_pulse

    config = fleet.config
    actor: Any = ray.remote(EvaluatorActor)
    return actor.options(**options).remote(
        partial(build.evaluator, config, config.schedule.eval_episodes, 1),
        partial(build.policy, config),
        fleet.weights,
        config.algorithm.name,
        partial(start_pulse, options["name"]),
    )


def _start_reanalyzer(fleet: Fleet, index: int, options: dict[str, Any]) -> Any:
    import ray

    from actors.service import ReanalyzeActor
    from cluster import build

    device: DeviceName = "cuda" if options.get("num_gpus") else "cpu"
    actor: Any = ray.remote(ReanalyzeActor)
    return actor.options(**options).remote(
        partial(build.remote_reanalyzer, fleet.config, fleet.actors["replay"], index, device),
        fleet.weights,
        index,
    )


def _reanalyzers(config: RunConfig, section: Any) -> int:
    """As many as the section says, where targets are to be made anew."""
    return int(section.count) if config.reanalyze.fraction > 0 else 0


def _tick_seconds(config: RunConfig) -> float:
    """How long an actor may be heard of no step of an environment, or of all where workers have limits themselves."""
    env = config.env
    if env.step_timeout_seconds == 0:
        return math.inf
    return env.step_timeout_seconds * (1 if env.mode == "serial" else config.actors.envs_per_actor)


def _serving(name: str, section: ServingConfig) -> Role:
    def count(config: RunConfig, section: ServingConfig) -> int:
        return section.count if serving_role(config) == name else 0

    return Role(name, section, count, partial(_start_server, name=name), Death.RESTART, collects=True)


_TABLE = (
    Role("weights", ActorConfig(cpus=0.0), lambda config, section: 1, _start_weights, Death.RESTART),
    Role(
        "replay", ActorConfig(cpus=0.1), lambda config, section: config.replay.num_shards, _start_shard, Death.RESTART
    ),
    Role(
        "learner",
        RoleConfig(gpus=None, strategy="PACK"),
        configured,
        _start_learner,
        Death.GROUP,
        Work(leases.issue_updates, leases.book_updates, leases.lose_updates),
        _join_learners,
        pulse=True,
        step_seconds=lambda config: UPDATE_SECONDS,
    ),
    _serving("planner", ServingConfig()),
    _serving("inference", ServingConfig(count=0, gpus=None, max_rows=256, max_wait_ms=1.0)),
    Role(
        "rollout",
        RoleConfig(),
        configured,
        _start_rollout,
        Death.REPLACE,
        Work(leases.issue_collects, leases.book_collect, leases.lose_collects, leases.flush_collects),
        closes=True,
        collects=True,
        pulse=True,
        step_seconds=_tick_seconds,
    ),
    Role(
        "reanalyze",
        OptionalRoleConfig(),
        _reanalyzers,
        _start_reanalyzer,
        Death.DROP,
        Work(leases.issue_reanalysis, leases.book_reanalysis, leases.lose_reanalysis),
    ),
    Role(
        "evaluator",
        ActorConfig(cpus=0.1),
        lambda config, section: int(config.schedule.eval_every > 0),
        _start_evaluator,
        Death.DROP,
        Work(leases.issue_evaluation, leases.book_evaluation),
        closes=True,
        pulse=True,
        step_seconds=_tick_seconds,
    ),
)

ROLES: dict[str, Role] = {role.name: role for role in _TABLE}
"""All roles by name, in the order in which they start; GPUs that a role takes if they are there go to earlier ones."""
