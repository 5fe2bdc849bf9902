"""From configuration to parts: the only place where names become objects.

Imports are lazy, so a rollout process never loads a part that it does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import RunConfig
from cluster.seeding import derive_seed
from envs.specs import EnvSpec
from learner.algorithms.dreamer_config import DreamerConfig
from learner.algorithms.pets import PetsConfig

if TYPE_CHECKING:
    from actors.evaluate import Evaluator
    from actors.records import Policy
    from actors.replay.flow.limiter import SampleLimiter
    from actors.replay.service import RemoteBatches
    from actors.replay.sharded import ShardedReplay
    from actors.rollout import RolloutLoop
    from actors.serving import PolicyServer
    from learner.algorithms.base import Algorithm
    from learner.batch import SequenceBatch
    from learner.device import DeviceName
    from learner.learner import Learner, ResultSink


def check(config: RunConfig) -> None:
    """Find out before anything is started or written whether the environment and the policy can be built.

    Raises:
        ValueError: They do not take their configuration, or do not fit each other.
    """
    policy(config)
    env_backend(config)


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


def policy(config: RunConfig, device: DeviceName = "cpu") -> Policy:
    """The acting policy in this process; a policy that runs no network takes no notice of the device."""
    return _family(config).policy(config, device)


def remote_policy(config: RunConfig, server: PolicyServer) -> Policy:
    """The acting policy, served by another process; nothing of it is built here."""
    from actors.serving import RemotePolicy

    return RemotePolicy(server, _family(config).observation_keys(config))


def rollout_loop(config: RunConfig, policy: Policy, index: int = 0, incarnation: int = 0) -> RolloutLoop:
    """The rollout loop of actor `index`."""
    from actors.rollout import RolloutConfig, RolloutLoop
    from envs.registry import make_vector_env

    env = make_vector_env(config.env.name, config.actors.envs_per_actor, mode=config.env.mode, **config.env.options)
    seed = derive_seed(config.seed, "rollout")
    return RolloutLoop(env, policy, seed, index, incarnation, RolloutConfig(config.actors.block_steps))


def evaluator(
    config: RunConfig, episodes: int, seed: int, record_episodes: int = 0, keep_episodes: int = 0, num_envs: int = 50
) -> Evaluator:
    """An evaluator whose episodes depend on `seed` alone, never on the run's."""
    from actors.evaluate import EvalConfig, Evaluator
    from envs.registry import make_vector_env

    held_out = derive_seed(seed, "evaluation")
    settings = EvalConfig(
        episodes, min(num_envs, episodes), held_out, None, record_episodes, record_stride=2, keep_episodes=keep_episodes
    )
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
    from actors.replay.flow.limiter import SampleLimiter

    return SampleLimiter(config.replay.limiter, collect_steps(config), sample_steps)


def algorithm(config: RunConfig) -> Algorithm:
    """The algorithm on the learner's device."""
    return _family(config).algorithm(config)


def learner(config: RunConfig, batches: Iterator[SequenceBatch], write_back: ResultSink) -> Learner:
    """The learner of this rank, training on `batches`; `write_back` takes priorities and write-backs to the replay."""
    from learner.learner import Learner

    sink = write_back if config.learner.minibatches == 1 else None
    return Learner(algorithm(config), batches, config.learner, derive_seed(config.seed, "learner"), sink)


def collect_steps(config: RunConfig) -> int:
    """Environment steps of one collect of one rollout loop."""
    return config.actors.ticks_per_collect * config.actors.envs_per_actor


def batch_steps(config: RunConfig) -> int:
    """Trained steps of one `Learner.step`, over all ranks; those that only lead up to them do not count."""
    return config.learner.batch_size * config.learner.sequence_length


def local_batches(config: RunConfig, replay: ShardedReplay) -> Iterator[SequenceBatch]:
    """Batches of a replay in this process."""
    while True:
        yield replay.sample(config.learner.batch_size, config.replayed_length)


def remote_batches(config: RunConfig, shards: list[Any], rank: int) -> RemoteBatches:
    """Batches of rank `rank` from shard actors."""
    from actors.replay.service import RemoteBatches

    return RemoteBatches(
        shards,
        config.learner.batch_size // config.count("learner"),
        config.replayed_length,
        derive_seed(config.seed, "batches", rank),
        config.cluster.sample_in_flight,
        config.replay.mixed_batches,
        config.replay.transport,
    )


@dataclass(frozen=True)
class Family:
    """What is built from one type of algorithm configuration."""

    algorithm: Callable[[RunConfig], Algorithm]
    policy: Callable[[RunConfig, DeviceName], Policy]
    observation_keys: Callable[[RunConfig], Sequence[str]]  # observations that the policy looks at


def _family(config: RunConfig) -> Family:
    return FAMILIES[type(config.algorithm)]


def _pets(config: RunConfig) -> Algorithm:
    from learner.algorithms.pets import PetsAlgorithm
    from learner.device import resolve_device

    assert isinstance(config.algorithm, PetsConfig)
    device = resolve_device(config.learner.device)
    seed = derive_seed(config.seed, "algorithm")
    return PetsAlgorithm(config.algorithm, env_spec(config), device, seed, config.learner.precision)


def _planner_policy(config: RunConfig, device: DeviceName) -> Policy:
    from actors.planning import PlannerPolicy

    return PlannerPolicy(env_spec(config), _pets_keys(config), config.planner, config.actors.exploration_std)


def _pets_keys(config: RunConfig) -> Sequence[str]:
    assert isinstance(config.algorithm, PetsConfig)
    return (config.algorithm.observation_key,)


def _dreamer(config: RunConfig) -> Algorithm:
    from learner.algorithms.dreamer import DreamerAlgorithm
    from learner.device import resolve_device

    assert isinstance(config.algorithm, DreamerConfig)
    device = resolve_device(config.learner.device)
    seed = derive_seed(config.seed, "algorithm")
    return DreamerAlgorithm(config.algorithm, env_spec(config), device, seed, config.learner.precision)


def _latent_policy(config: RunConfig, device: DeviceName) -> Policy:
    from actors.latent_policy import LatentPolicy
    from learner.device import resolve_device

    assert isinstance(config.algorithm, DreamerConfig)
    return LatentPolicy(env_spec(config), config.algorithm, config.planner, resolve_device(device))


def _dreamer_keys(config: RunConfig) -> Sequence[str]:
    assert isinstance(config.algorithm, DreamerConfig)
    return config.algorithm.observation.keys or tuple(env_spec(config).observation)


FAMILIES: dict[type, Family] = {
    PetsConfig: Family(_pets, _planner_policy, _pets_keys),
    DreamerConfig: Family(_dreamer, _latent_policy, _dreamer_keys),
}
"""How each type of algorithm configuration is built."""
