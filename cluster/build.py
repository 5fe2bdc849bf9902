"""From configuration to parts: the only place where names become objects.

Imports are lazy, so a rollout process never loads a part that it does not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import RunConfig
from cluster.seeding import derive_seed
from envs.specs import EnvSpec

if TYPE_CHECKING:
    from actors.evaluate import Evaluator
    from actors.planning import PlanCall, PlannerPolicy, PlanSource
    from actors.records import Policy
    from actors.replay.limiter import SampleLimiter
    from actors.replay.service import RemoteBatches
    from actors.replay.sharded import ShardedReplay
    from actors.rollout import RolloutLoop
    from learner.algorithms.pets import PetsAlgorithm
    from learner.batch import SequenceBatch
    from learner.learner import Learner, ResultSink


def env_spec(config: RunConfig) -> EnvSpec:
    """Spec of the run's environment."""
    from envs.registry import env_spec

    return env_spec(config.env.name, **config.env.options)


def env_backend(config: RunConfig) -> str | None:
    """The package that steps the rollouts' environments, None where there is no choice.

    Raises:
        ValueError: Bad options, missing packages, or options of the evaluation that do not fit a trained policy.
    """
    from envs.registry import env_spec, vector_backend

    env = config.env
    if env.eval_options:
        options = {**env.options, **env.eval_options}
        trained, evaluated = env_spec(env.name, **env.options), env_spec(env.name, **options)
        if (trained.observation, trained.action) != (evaluated.observation, evaluated.action):
            raise ValueError(f"env.eval_options {env.eval_options} change what a policy of {env.name} sees or does")
        vector_backend(env.name, **options)
    return vector_backend(env.name, **env.options)


def plan_source(config: RunConfig) -> PlanSource:
    """The planner of a planner process, without weights yet."""
    from actors.planning import PlanSource

    return PlanSource(config.planner, env_spec(config).action)


def policy(config: RunConfig, plan: PlanCall | None = None) -> PlannerPolicy:
    """The acting policy; `plan` sends its problems to a remote planner instead of planning here."""
    from actors.planning import PlannerPolicy

    keys = (config.algorithm.observation_key,)
    return PlannerPolicy(env_spec(config), keys, config.planner, config.actors.exploration_std, plan)


def rollout_loop(config: RunConfig, policy: Policy, index: int = 0, incarnation: int = 0) -> RolloutLoop:
    """The rollout loop of actor `index`."""
    from actors.rollout import RolloutConfig, RolloutLoop
    from envs.registry import make_vector_env

    env = make_vector_env(config.env.name, config.actors.envs_per_actor, mode=config.env.mode, **config.env.options)
    seed = derive_seed(config.seed, "rollout")
    return RolloutLoop(env, policy, seed, index, incarnation, RolloutConfig(config.actors.block_steps))


def evaluator(config: RunConfig, episodes: int, seed: int, record_episodes: int = 0, num_envs: int = 50) -> Evaluator:
    """An evaluator whose episodes depend on `seed` alone, never on the run's."""
    from actors.evaluate import EvalConfig, Evaluator
    from envs.registry import make_vector_env

    held_out = derive_seed(seed, "evaluation")
    settings = EvalConfig(episodes, min(num_envs, episodes), held_out, None, record_episodes, record_stride=2)
    options = {**config.env.options, **config.env.eval_options}
    return Evaluator(lambda n: make_vector_env(config.env.name, n, **options), settings)


def replay(config: RunConfig, directory: Path, restore: str | None, tail: bool = False) -> ShardedReplay:
    """The replay in this process, with its files in `directory`.

    Args:
        config: The run.
        directory: Folder of the shards' files.
        restore: Manifest to continue from, None for the newest.
        tail: Whether to continue with what was stored after the manifest.
    """
    from actors.replay.sharded import ShardedReplay

    seed = derive_seed(config.seed, "replay")
    return ShardedReplay.from_config(config.replay, seed, directory, restore=restore, tail=tail)


def limiter(config: RunConfig, sample_steps: int) -> SampleLimiter:
    """The limiter between collects and trainings of `sample_steps` trained steps."""
    from actors.replay.limiter import SampleLimiter

    return SampleLimiter(config.replay.limiter, collect_steps(config), sample_steps)


def algorithm(config: RunConfig) -> PetsAlgorithm:
    """The algorithm on the learner's device."""
    from learner.algorithms.pets import PetsAlgorithm
    from learner.device import resolve_device

    return PetsAlgorithm(
        config.algorithm,
        env_spec(config),
        resolve_device(config.learner.device),
        derive_seed(config.seed, "algorithm"),
        config.learner.precision,
    )


def learner(config: RunConfig, batches: Iterator[SequenceBatch], feedback: ResultSink) -> Learner:
    """The learner of this rank, training on `batches`; `feedback` takes priorities and write-backs to the replay."""
    from learner.learner import Learner

    sink = feedback if config.learner.minibatches == 1 else None
    return Learner(algorithm(config), batches, config.learner, derive_seed(config.seed, "learner"), sink)


def collect_steps(config: RunConfig) -> int:
    """Environment steps of one collect of one rollout loop."""
    return config.actors.ticks_per_collect * config.actors.envs_per_actor


def batch_steps(config: RunConfig) -> int:
    """Trained steps of one `Learner.step`, over all ranks."""
    return config.learner.batch_size * config.learner.sequence_length


def local_batches(config: RunConfig, replay: ShardedReplay) -> Iterator[SequenceBatch]:
    """Batches of a replay in this process."""
    while True:
        yield replay.sample(config.learner.batch_size, config.learner.sequence_length)


def remote_batches(config: RunConfig, shards: list[Any], rank: int) -> RemoteBatches:
    """Batches of rank `rank` from shard actors."""
    from actors.replay.service import RemoteBatches

    return RemoteBatches(
        shards,
        config.learner.batch_size // config.cluster.learner_ranks,
        config.learner.sequence_length,
        derive_seed(config.seed, "batches", rank),
        config.cluster.sample_in_flight,
        config.replay.mixed_batches,
        config.replay.transport,
    )
