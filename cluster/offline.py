"""Training on a replay that another run has stored: where it is, and whether it fits the run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from actors.replay.store.stored import open_stored
from cluster import build
from cluster.config import RunConfig
from cluster.run_dir import RunDir
from envs.specs import ArraySpec

logger = logging.getLogger(__name__)


def source_folders(config: RunConfig) -> tuple[Path, ...]:
    """The shard folders that a new run imports, none if it begins without any steps.

    Raises:
        ValueError: The replay is missing, empty or in use, or does not fit the run.
    """
    if config.schedule.from_replay is None:
        return ()
    path = Path(config.schedule.from_replay)
    stored = open_stored(path)
    columns = {column.key: column for column in stored.schema.columns}
    name = config.env.name
    for key, spec in read_arrays(config).items():
        column = columns.get(key)
        if column is None:
            raise ValueError(
                f"{config.algorithm.name} on {name} reads {key!r}, which the replay in {path} does not hold: "
                f"it holds {', '.join(columns)}"
            )
        if (column.numpy_dtype, column.shape) != (np.dtype(spec.dtype), spec.shape):
            raise ValueError(
                f"{key!r} is {spec.dtype} {spec.shape} for {config.algorithm.name} on {name} "
                f"and {column.numpy_dtype} {column.shape} in the replay in {path}"
            )
    if stored.longest < config.replayed_length:
        raise ValueError(
            f"sequences of {config.replayed_length} steps (learner.sequence_length and their context) are longer than "
            f"any stream of the replay in {path}: {stored.longest} steps"
        )
    return stored.folders


def say_other_source(config: RunConfig) -> None:
    """Say it where the steps that a run begins with are of another environment, or of one with other options."""
    source = config.schedule.from_replay
    file = None if source is None else next((p for p in (Path(source), Path(source).parent) if _is_run(p)), None)
    if file is None:
        return
    stored = RunDir.open(file)[1].env
    if stored.name != config.env.name:
        logger.warning("the steps in %s are of %s, the run's env.name is %s", source, stored.name, config.env.name)
    for name in sorted({*stored.options, *config.env.options}):
        theirs, ours = (options.get(name, "its default") for options in (stored.options, config.env.options))
        if theirs != ours:
            logger.warning("the steps in %s have env.options.%s=%s, the run has %s", source, name, theirs, ours)


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def read_arrays(config: RunConfig) -> dict[str, ArraySpec]:
    """Per step, what the run's algorithm reads from the replay and environments or policies decide on."""
    spec = build.env_spec(config)
    observations = {key: spec.observation[key] for key in build.observation_keys(config)}
    return {**observations, "action": spec.action, **build.policy(config).extras}
