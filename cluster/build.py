"""From configuration to parts: the only place where names become objects.

Imports are lazy, so a rollout process never loads a part that it does not run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from cluster.seeding import derive_seed
from cluster.stages import Stage, scheduled
from envs.specs import EnvSpec
from learner.algorithms.dreamer_config import DreamerConfig
from learner.algorithms.muzero_config import MuZeroConfig
from learner.algorithms.pets_config import PetsConfig

if TYPE_CHECKING:
    from torch import device as TorchDevice

    from actors.evaluate import Evaluator
    from actors.reanalyze import Reanalyzer
    from actors.records import Policy
    from actors.replay.flow.limiter import SampleLimiter
    from actors.replay.flow.service import RemoteBatches
    from actors.replay.sharded import ShardedReplay
    from actors.rollout import RolloutLoop
    from actors.serving import PolicyServer
    from cluster.config import RunConfig
    from cluster.report.run_fidelity import RunStudyConfig
    from cluster.run_dir import RunDir
    from learner.algorithms.base import Algorithm, Exchange
    from learner.algorithms.dreamer import DreamerAlgorithm
    from learner.algorithms.muzero import MuZeroAlgorithm
    from learner.algorithms.pets import PetsAlgorithm
    from learner.batch import SequenceBatch
    from learner.dataset import Stream
    from learner.learner import Learner, ResultSink
    from learner.learner_config import DeviceName, Precision


def check(config: RunConfig) -> None:
    """Find out before anything is started or written whether the environment and the policy can be built.

    Raises:
        ValueError: They do not take their configuration, or do not fit each other.
    """
    policy(config)
    env_backend(config)
    if config.cluster.ledger and config.cluster.mode == "local":
        raise ValueError(
            "cluster.ledger=true needs cluster.mode=ray: in one process nobody acknowledges a block to anybody"
        )


def env_spec(config: RunConfig) -> EnvSpec:
    """Spec of the run's environment.

    Raises:
        ValueError: It cannot be made, or an option is unknown or invalid; the line has the option's full key.
    """
    from envs.registry import env_spec

    with _full_keys("env.options", config.env.options):
        return env_spec(config.env.name, **config.env.options)


@contextmanager
def _full_keys(section: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Have the errors of environments, which know their options alone, say the keys of the configuration."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if any(re.match(rf"{re.escape(str(name))}\b", text) for name in options):
            raise ValueError(f"{section}.{text}") from error
        if text.startswith("unknown option '"):
            raise ValueError(text.replace("'", f"'{section}.", 1)) from error
        raise


def env_backend(config: RunConfig) -> str | None:
    """The package that steps the rollouts' environments, None where there is no choice.

    Raises:
        ValueError: Bad options, missing packages, or options of the evaluation that do not fit a trained policy.
    """
    from envs.registry import env_spec, vector_backend

    env = config.env
    if env.eval_options:
        options = {**env.options, **env.eval_options}
        with _full_keys("env.eval_options", env.eval_options):
            evaluated = env_spec(env.name, **options)
        trained = env_spec(env.name, **env.options)
        if (trained.observation, trained.action) != (evaluated.observation, evaluated.action):
            raise ValueError(f"env.eval_options {env.eval_options} change what a policy of {env.name} sees or does")
        vector_backend(env.name, **options)
    return vector_backend(env.name, **env.options)


def policy(config: RunConfig, device: DeviceName = "cpu") -> Policy:
    """The acting policy in this process; a policy that runs no network takes no notice of the device."""
    return family(config).policy(config.algorithm, config, device)


def remote_policy(config: RunConfig, server: PolicyServer) -> Policy:
    """The acting policy, served by another process; nothing of it is built here."""
    from actors.serving import RemotePolicy

    return RemotePolicy(server, observation_keys(config))


def observation_keys(config: RunConfig) -> Sequence[str]:
    """Observations that the policy looks at and the algorithm learns from."""
    return family(config).observation_keys(config.algorithm, config)


def rollout_loop(
    config: RunConfig,
    policy: Policy,
    index: int = 0,
    incarnation: int = 0,
    hung: Callable[[str], None] | None = None,
) -> RolloutLoop:
    """The rollout loop of actor `index`; `hung` is told of an environment that hangs in this process, see `envs.watch`.

    Raises:
        SimulatorError: An environment fails however often it is made again.
        ValueError: The environment cannot be made, or not be stepped as it is configured.
    """
    from actors.rollout import RolloutConfig, RolloutLoop
    from envs.registry import entry, make_vector_env
    from envs.watch import watch

    env = make_vector_env(
        config.env.name,
        config.actors.envs_per_actor,
        mode=config.env.mode,
        check_share=config.env.check_share,
        step_timeout_seconds=config.env.step_timeout_seconds,
        **config.env.options,
    )
    seed = derive_seed(config.seed, "rollout")
    settings = RolloutConfig(config.actors.block_steps, entry(config.env.name).repeatable)
    if hung is not None:
        watch(env, config.env.step_timeout_seconds, hung)
    try:
        return RolloutLoop(env, policy, seed, index, incarnation, settings)
    except BaseException:
        env.close()
        raise


def evaluator(
    config: RunConfig,
    episodes: int,
    seed: int,
    record_episodes: int = 0,
    keep_episodes: int = 0,
    num_envs: int = 50,
    max_steps: int | None = None,
) -> Evaluator:
    """An evaluator whose episodes depend on `seed` alone, never on the run's; see `actors.evaluate.EvalConfig`.

    Of simulators that need processes of their own it starts no more at once than a rollout actor does.
    """
    from actors.evaluate import EvalConfig, Evaluator
    from envs.registry import entry, make_vector_env

    if entry(config.env.name).envs_per_process is not None:
        num_envs = min(num_envs, config.actors.envs_per_actor)
    settings = EvalConfig(
        episodes=episodes,
        num_envs=min(num_envs, episodes),
        seed=derive_seed(seed, "evaluation"),
        max_steps=max_steps or config.schedule.eval_max_steps or None,
        record_episodes=record_episodes,
        record_stride=2,
        keep_episodes=keep_episodes,
    )
    make_env = partial(
        make_vector_env,
        config.env.name,
        mode=config.env.mode,
        check_share=config.env.check_share,
        step_timeout_seconds=config.env.step_timeout_seconds,
        **{**config.env.options, **config.env.eval_options},
    )
    return Evaluator(make_env, settings)


def replay(
    config: RunConfig, directory: Path, restore: str | None, tail: bool = False, imported: tuple[Path, ...] = ()
) -> ShardedReplay:
    """The replay in this process, with its files in `directory`.

    Args:
        config: The run.
        directory: Folder of the shards' files.
        restore: Manifest to continue from, None for the newest.
        tail: Whether to continue with what was stored after the manifest.
        imported: Shard folders of another replay, all of whose steps a new one begins with.
    """
    from actors.replay.sharded import ShardedReplay

    seed = derive_seed(config.seed, "replay")
    tail = tail or bool(imported)
    viewed = config.viewed_replay
    return ShardedReplay.from_config(viewed, seed, directory, restore=restore, tail=tail, imported=imported)


def limiter(config: RunConfig, sample_steps: int) -> SampleLimiter:
    """The limiter between collects and trainings of `sample_steps` trained steps."""
    from actors.replay.flow.limiter import SampleLimiter

    return SampleLimiter(config.replay.limiter, collect_steps(config), sample_steps)


def algorithm(config: RunConfig) -> Algorithm:
    """The algorithm on the learner's device."""
    return family(config).algorithm(config.algorithm, config)


def learner(
    config: RunConfig,
    batches: Iterator[SequenceBatch],
    write_back: ResultSink,
    rank: int = 0,
    bundles: Path | None = None,
) -> Learner:
    """The learner of a rank.

    Args:
        config: The run.
        batches: What it trains on.
        write_back: Takes priorities and write-backs to the replay.
        rank: Its place among the ranks.
        bundles: Folder for updates that were not finite, None to keep none.
    """
    from cluster.bundle import Bundles
    from learner.learner import Learner

    return Learner(
        algorithm(config),
        batches,
        config.learner,
        derive_seed(config.seed, "learner"),
        write_back,
        derive_seed(config.seed, "torch", rank),
        None if bundles is None else Bundles(config, bundles),
    )


def stages(config: RunConfig) -> Sequence[Stage]:
    """What the run does, one after the other.

    Raises:
        ValueError: The schedule does not say what to do.
    """
    return family(config).stages(config)


def study(config: RunConfig, run_dir: RunDir, algorithm: Algorithm, streams: Sequence[Stream], steps: int) -> None:
    """Write into the run's directory what its family studies in held-out episodes, if anything.

    Args:
        config: The run.
        run_dir: Its directory.
        algorithm: What was trained.
        streams: Episodes from their first step on.
        steps: Environment steps trained.
    """
    view = family(config).study
    if view is not None:
        view(run_dir, algorithm, streams, steps)


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


SHARD_START_SECONDS = 300.0
"""How long a learner waits for a shard that starts again."""


def remote_batches(config: RunConfig, shards: list[Any], rank: int) -> RemoteBatches:
    """Batches of rank `rank` from shard actors."""
    batch_size = config.learner.batch_size // config.count("learner")
    return _remote(config, shards, batch_size, config.replayed_length, derive_seed(config.seed, "batches", rank))


def _remote(
    config: RunConfig, shards: list[Any], batch_size: int, length: int, seed: int, view: str = "train"
) -> RemoteBatches:
    from actors.replay.flow.service import RemoteBatches

    return RemoteBatches(
        shards,
        batch_size,
        length,
        seed,
        config.cluster.sample_in_flight,
        config.replay.mixed_batches,
        config.replay.transport,
        wait_seconds=config.roles["replay"].timeout_seconds + SHARD_START_SECONDS,  # one that hangs is started again
        view=view,
    )


def local_reanalyzer(config: RunConfig, replay: ShardedReplay, policy: Policy, index: int) -> Reanalyzer:
    """Reanalyzer `index` of a replay in this process, with the policy that acts."""
    from actors.reanalyze_config import REANALYZE

    def batches() -> Iterator[SequenceBatch]:
        while True:
            yield replay.sample(config.reanalyze.batch_size, 1, view=REANALYZE)

    return _reanalyzer(config, policy, batches(), replay.write_back, index)


def remote_reanalyzer(config: RunConfig, shards: list[Any], index: int, device: DeviceName) -> Reanalyzer:
    """Reanalyzer `index` of shard actors, with a policy of its own."""
    from actors.reanalyze_config import REANALYZE

    seed = derive_seed(config.seed, "reanalyzed batches", index)
    batches = _remote(config, shards, config.reanalyze.batch_size, 1, seed, REANALYZE)
    return _reanalyzer(config, policy(config, device), batches, batches.write_back, index)


def _reanalyzer(
    config: RunConfig, policy: Policy, batches: Iterator[SequenceBatch], write: ResultSink, index: int
) -> Reanalyzer:
    from actors.reanalyze import Reanalyzer

    seed = derive_seed(config.seed, "reanalyze", index)
    return Reanalyzer(policy, observation_keys(config), batches, write, config.reanalyze.noise, seed)


class AlgorithmConfig(Protocol):
    """What every type of algorithm configuration says; its field `name` is a `Literal`, by which the type is chosen."""

    @property
    def name(self) -> str:
        """The algorithm's name for people."""
        ...

    @property
    def context(self) -> int:
        """Leading steps of a sequence from the replay that only lead up to the trained ones."""
        ...

    @property
    def exchange(self) -> Exchange:
        """What the algorithm gives the replay and needs of it."""
        ...


C = TypeVar("C", bound=AlgorithmConfig)


@dataclass(frozen=True)
class Family(Generic[C]):
    """A type of algorithm configuration and all that depends on it.

    Functions import what they build, and take the configuration of the algorithm and of the whole run.
    """

    config: type[C]
    algorithm: Callable[[C, RunConfig], Algorithm]
    policy: Callable[[C, RunConfig, DeviceName], Policy]
    observation_keys: Callable[[C, RunConfig], Sequence[str]]  # observations that are acted on and learned from
    serving: str = "inference"  # role of the actors that act for rollout actors
    stages: Callable[[RunConfig], Sequence[Stage]] = scheduled
    # What is written of held-out episodes: (run directory, algorithm, episodes, environment steps trained).
    study: Callable[[RunDir, Any, Sequence[Stream], int], None] | None = None
    # Open-loop errors on test episodes, for `worldfleet fidelity`: (algorithm, episodes, size of the study, seed).
    fidelity: Callable[[Any, list[Stream], RunStudyConfig, int], dict[str, Any]] | None = None


def family(config: RunConfig) -> Family[Any]:
    """The record of the run's algorithm."""
    return next(record for record in FAMILIES.values() if record.config is type(config.algorithm))


def algorithm_configs() -> list[type]:
    """Types that a run's `algorithm` may have; the first is the default."""
    return [record.config for record in FAMILIES.values()]


def _pets(own: PetsConfig, run: RunConfig) -> PetsAlgorithm:
    from learner.algorithms.pets import PetsAlgorithm

    return PetsAlgorithm(own, *_learning(run), priorities=run.replay.takes_priorities)


def _planner_policy(own: PetsConfig, run: RunConfig, device: DeviceName) -> Policy:
    from actors.planning import PlannerPolicy

    spec, keys, observer = env_spec(run), _pets_keys(own, run), None
    _check_pets(own, spec)
    if own.coder is not None and own.observation_key in spec.observation:
        from actors.coder_observer import CoderObserver

        observer = CoderObserver(own.coder, spec.observation[own.observation_key])
    return PlannerPolicy(spec, keys, run.planner, run.actors.exploration_std, observer)


def _check_pets(own: PetsConfig, spec: EnvSpec) -> None:
    """Refuse an environment whose observations or actions an ensemble of vectors cannot learn, and say what can.

    Raises:
        ValueError: The observation is no vector, or the actions are ids.
    """
    given = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in spec.observation.items())
    observation = spec.observation.get(own.observation_key)
    wrong = [] if observation is not None else [f"a vector {own.observation_key!r} (algorithm.observation_key)"]
    wrong += [f"actions in a box, not {spec.action.num_values} discrete ids"] if spec.action.is_discrete else []
    if wrong:
        others = "dreamer_v3, muzero" if spec.action.is_discrete else "dreamer_v3, dreamer_v1, planet"
        raise ValueError(f"pets needs {' and '.join(wrong)}; {spec.name} gives {given}: --algo {others} fit")


def _pets_keys(own: PetsConfig, run: RunConfig) -> Sequence[str]:
    return (own.observation_key,)


def _ensemble_fidelity(
    algorithm: PetsAlgorithm, streams: list[Stream], config: RunStudyConfig, seed: int
) -> dict[str, Any]:
    from cluster.report.run_fidelity import measure_ensemble

    with algorithm.average.applied():
        return measure_ensemble(algorithm.model, algorithm.config.observation_key, streams, config, seed)


def _dreamer(own: DreamerConfig, run: RunConfig) -> DreamerAlgorithm:
    from learner.algorithms.dreamer import DreamerAlgorithm

    return DreamerAlgorithm(own, *_learning(run))


def _latent_policy(own: DreamerConfig, run: RunConfig, device: DeviceName) -> Policy:
    from actors.latent_policy import LatentPolicy
    from learner.device import resolve_device

    return LatentPolicy(env_spec(run), own, run.planner, resolve_device(device), derive_seed(run.seed, "algorithm"))


def _dreamer_keys(own: DreamerConfig, run: RunConfig) -> Sequence[str]:
    return own.observation.keys or tuple(env_spec(run).observation)


def _imagination(run_dir: RunDir, algorithm: DreamerAlgorithm, streams: Sequence[Stream], steps: int) -> None:
    from cluster.report.imagination import write_study

    write_study(run_dir, algorithm.world, streams, steps)


def _latent_fidelity(
    algorithm: DreamerAlgorithm, streams: list[Stream], config: RunStudyConfig, seed: int
) -> dict[str, Any]:
    from cluster.report.run_fidelity import measure_latent

    return measure_latent(algorithm.world, streams, config, seed)


def _muzero(own: MuZeroConfig, run: RunConfig) -> MuZeroAlgorithm:
    from learner.algorithms.muzero import MuZeroAlgorithm

    priorities, fraction = run.viewed_replay.takes_priorities, run.reanalyze.fraction
    return MuZeroAlgorithm(own, *_learning(run), priorities=priorities, fresh_fraction=fraction)


def _search_policy(own: MuZeroConfig, run: RunConfig, device: DeviceName) -> Policy:
    from actors.search_policy import SearchPolicy
    from learner.device import resolve_device

    spec = env_spec(run)
    _check_muzero(own, run, spec)
    priorities, fresh = run.viewed_replay.takes_priorities, run.reanalyze.fraction > 0
    return SearchPolicy(spec, own, run.planner, resolve_device(device), priorities, fresh)


def _check_muzero(own: MuZeroConfig, run: RunConfig, spec: EnvSpec) -> None:
    """Refuse settings of a run that its algorithm cannot be run with.

    Raises:
        ValueError: Actions are a box and the preset is for ids, or sequences are shorter than an unroll.
    """
    if not spec.action.is_discrete and own.name != "sampled_muzero":
        raise ValueError(f"{own.name} needs discrete actions, and those of {spec.name} are a box: use sampled_muzero")
    length, least = run.learner.sequence_length, own.unroll_steps + 1
    if length < least:
        raise ValueError(
            f"learner.sequence_length must be at least algorithm.unroll_steps + 1 = {least}, got {length}; targets are"
            f" whole from {least + own.td_steps} on"
        )


def _muzero_keys(own: MuZeroConfig, run: RunConfig) -> Sequence[str]:
    return own.observation_keys or tuple(env_spec(run).observation)


def _learning(run: RunConfig) -> tuple[EnvSpec, TorchDevice, int, Precision]:
    """What every algorithm is made with: environment, device, seed and precision."""
    from learner.device import resolve_device

    device = resolve_device(run.learner.device)
    return env_spec(run), device, derive_seed(run.seed, "algorithm"), run.learner.precision


FAMILIES: dict[str, Family[Any]] = {
    "pets": Family(PetsConfig, _pets, _planner_policy, _pets_keys, serving="planner", fidelity=_ensemble_fidelity),
    "dreamer": Family(
        DreamerConfig, _dreamer, _latent_policy, _dreamer_keys, study=_imagination, fidelity=_latent_fidelity
    ),
    "muzero": Family(MuZeroConfig, _muzero, _search_policy, _muzero_keys, serving="planner"),
}
"""Every kind of algorithm, by the name of its family."""
