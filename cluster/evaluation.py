"""`worldfleet eval`: held-out episodes of a trained run, their summary and their pictures."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import build
from cluster.checkpoints import ACTING, read
from cluster.config import RunConfig, override
from cluster.progress import Waiting
from cluster.report import imagination
from cluster.report.pictures import write_gif
from cluster.run_dir import RunDir, write_atomic
from cluster.supervise import RunFailed
from envs.faults import SimulatorError
from envs.numbers import NonNegativeInt, PositiveInt, read_value
from learner import checkpoint
from learner.algorithms.base import Algorithm
from planners.config import Precision, SequenceConfig

if TYPE_CHECKING:
    from actors.evaluate import Evaluation
    from actors.records import Episode, Policy

logger = logging.getLogger(__name__)


CHANGEABLE = ("env", "planner", "learner.device", "algorithm.acting")
"""Keys of the configuration that an evaluation may change: what is left is how the model was trained."""


_LONGEST_NAME = 180
"""Characters of the name of an evaluation's files: a file system takes 255, with their endings and temporaries."""


@dataclass(frozen=True)
class Trained:
    """A run as its newest checkpoint left it."""

    run_dir: RunDir
    config: RunConfig
    algorithm: Algorithm
    policy: Policy  # with the algorithm's weights
    steps: int  # environment steps trained


def load_trained(path: Path, precision: Precision | None = None, overrides: Sequence[str] = ()) -> Trained:
    """Read the newest checkpoint of a run, which may be going on.

    Args:
        path: Run directory.
        precision: Planner arithmetic instead of the run's.
        overrides: `a.b=value` changes to the run's configuration, such as how its model is used.

    Raises:
        ValueError: No run, no checkpoint or a damaged one, a change that is none, or a planner without a precision.
    """
    run_dir, config = RunDir.open(path)
    newest = checkpoint.latest(run_dir.checkpoints)
    if newest is None:
        raise ValueError(f"{path} has no checkpoint to evaluate yet")
    trained, config = config, override(config, overrides, CHANGEABLE, "an evaluation")
    check_arrays(trained, config)
    if precision is not None:
        if not isinstance(config.planner, SequenceConfig):
            raise ValueError(f"--precision {precision}: planner method {config.planner.method} has no precision")
        config = dataclasses.replace(config, planner=dataclasses.replace(config.planner, precision=precision))
    state = read(newest, ACTING)
    algorithm = build.algorithm(config)
    policy = build.policy(config, config.learner.device)
    with checkpoint.restoring(newest):
        algorithm.load_state_dict(state["learner"]["algorithm"])
        policy.update(state["learner"]["updates"], algorithm.export_weights())
    return Trained(run_dir, config, algorithm, policy, state["recorder"]["steps"])


def check_arrays(trained: RunConfig, config: RunConfig) -> None:
    """Refuse an environment in which the policy of another one cannot act.

    Raises:
        ValueError: Naming the first array that differs, and both shapes.
    """
    if (trained.env.name, trained.env.options) == (config.env.name, config.env.options):
        return
    before, after = build.env_spec(trained), build.env_spec(config)
    pairs = {key: (before.observation[key], after.observation.get(key)) for key in build.observation_keys(trained)}
    for key, (was, now) in {**pairs, "action": (before.action, after.action)}.items():
        if now is None or (was.shape, was.dtype, was.num_values) != (now.shape, now.dtype, now.num_values):
            found = "has none" if now is None else f"has {now.dtype} {now.shape}"
            raise ValueError(
                f"the policy of {before.name} takes {key!r} as {was.dtype} {was.shape}, {after.name} {found}"
            )


def evaluate_run(
    path: Path,
    episodes: int,
    seed: int,
    gif_episodes: int = 2,
    precision: Precision | None = None,
    overrides: Sequence[str] = (),
    max_steps: int | None = None,
) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run without exploration.

    Writes `eval/step<...>_seed<...>.json`, its episodes as JSON lines, a GIF of the first ones and the models; for a
    latent world model also what it imagines of them, see `cluster.report.imagination`. Where the environment draws no
    pictures there is no GIF, and a warning says so.

    Args:
        path: Run directory; a run that is going on may be evaluated.
        episodes: Held-out episodes.
        seed: Chooses the episodes.
        gif_episodes: Leading episodes drawn into the GIF, 0 for none.
        precision: Planner arithmetic instead of the run's.
        overrides: `a.b=value` changes to the run's configuration; the names of the files tell them.
        max_steps: Steps after which an episode is cut; None for `schedule.eval_max_steps`.

    Returns:
        The summary, with `steps` as environment steps trained and `run_dir`.

    Raises:
        ValueError: No run, no checkpoint or a damaged one, or a number that is none.
        RunFailed: No simulator can be made.
    """
    read_value(PositiveInt, episodes, "episodes")
    read_value(NonNegativeInt, seed, "seed")
    read_value(NonNegativeInt, gif_episodes, "gif_episodes")
    read_value(PositiveInt | None, max_steps, "max_steps")
    trained = load_trained(path, precision, overrides)
    run_dir, config = trained.run_dir, trained.config
    keep = imagination.EPISODES if imagination.applies(config) else 0
    try:
        evaluator = build.evaluator(config, episodes, seed, gif_episodes, keep, max_steps=max_steps)
        with closing(evaluator), Waiting(f"evaluating {path}") as waiting:
            evaluation = evaluator.evaluate(trained.policy, config.algorithm.name, ended=waiting.episodes)
    except SimulatorError as error:
        raise RunFailed(f"no evaluation of {config.env.name}: {error}") from error
    summary = {**evaluation.summary.as_dict(), "seed": seed, "train_steps": trained.steps, "run_dir": str(path)}
    asked = [*([precision] if precision else []), *([f"max_steps={max_steps}"] if max_steps else []), *overrides]
    name = _file_name([f"step{trained.steps}", f"seed{seed}", *asked])
    records = map(episode_record, evaluator.env_seeds, evaluation.episodes)
    files: dict[str, Callable[[], object]] = {
        f"eval/{name}.json": lambda: write_atomic(run_dir.eval / f"{name}.json", json.dumps(summary, indent=1) + "\n"),
        f"eval/{name}.jsonl": lambda: write_atomic(
            run_dir.eval / f"{name}.jsonl", "".join(f"{json.dumps(record)}\n" for record in records)
        ),
        f"eval/{name}.gif": lambda: _write_film(run_dir.eval / f"{name}.gif", evaluation),
        "models": lambda: _write_models(run_dir.path / "models", trained.algorithm),
    }
    if evaluation.streams:
        files["imagination"] = lambda: build.study(
            config, run_dir, trained.algorithm, evaluation.streams, trained.steps
        )
    _write_what_can_be(files)
    return summary


def _file_name(parts: Sequence[str]) -> str:
    """A name of files that tells the parts; what is too long for one ends in a checksum of all."""
    name = "_".join(re.sub(r"[^\w.=-]+", "-", part, flags=re.ASCII) for part in parts)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{zlib.crc32('_'.join(parts).encode()):08x}"


def _write_what_can_be(files: Mapping[str, Callable[[], object]]) -> None:
    """Write files; one that cannot be written is said, and costs neither the result nor the others."""
    for name, write in files.items():
        try:
            write()
        except OSError as error:
            logger.warning("%s is not written: %s", name, error.strerror or error)


def _write_models(folder: Path, algorithm: Algorithm) -> None:
    folder.mkdir(exist_ok=True)
    algorithm.save_artifacts(folder)


def _write_film(path: Path, evaluation: Evaluation) -> None:
    """The recorded episodes as a GIF, or one line why there is none."""
    reason = evaluation.no_frames
    if evaluation.frames:
        try:
            write_gif(path, np.concatenate(evaluation.frames))
        except ValueError as error:
            reason = str(error)
    if reason:
        logger.warning("no GIF of %s: %s", evaluation.summary.env, " ".join(reason.split()))


def study_imagination(path: Path) -> None:
    """Let the newest latent world model of a run imagine a few held-out episodes, unless it has done so already.

    Raises:
        ValueError: No run, no checkpoint or a damaged one, or episodes that are too short.
    """
    if not imagination.applies(RunDir.open(path)[1]):
        return
    trained = load_trained(path)
    if imagination.study_file(trained.run_dir, trained.steps).exists():
        return
    evaluator = build.evaluator(trained.config, imagination.EPISODES, 0, 0, imagination.EPISODES)
    try:
        streams = evaluator.evaluate(trained.policy, trained.config.algorithm.name).streams
    finally:
        evaluator.close()
    if streams:
        build.study(trained.config, trained.run_dir, trained.algorithm, streams, trained.steps)


def episode_record(seed: int, episode: Episode) -> dict[str, Any]:
    """One line of the episodes' file.

    Args:
        seed: The environment was reset with it.
        episode: What came of it.
    """
    success = episode.metrics.get("is_success")
    return {
        "seed": seed,
        "return": episode.episode_return,
        "length": episode.length,
        "success": None if success is None else success > 0,
        "faults": episode.faults,
        "cut": episode.cut,
        "metrics": episode.metrics,
    }
