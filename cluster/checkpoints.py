"""The checkpoints of a run: one directory each for all that is small, beside the replay's own files.

A checkpoint `step_<n>` holds the learner, the books and the rollout loops; the replay keeps a manifest of the same
name over steps that are on disk once, whatever the number of checkpoints. The manifest is committed first,
so a checkpoint that exists always has one, and old manifests go only when no checkpoint needs them.

What the replay's log holds after the newest manifest is its tail. A run in one process that continues takes the same
steps again and leaves the tail out; one on Ray never does, so that a folder whose tail comes from Ray is marked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.ending import Saved
from learner import checkpoint

logger = logging.getLogger(__name__)

_TAIL = "KEEP_TAIL"


class Checkpoints:
    """Names, writes and counts the checkpoints in one directory.

    Args:
        directory: Folder of the checkpoints.
        keep: Newest checkpoints to keep.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def next_name(self, step: int) -> str:
        """Name of the next checkpoint of environment step `step`."""
        return checkpoint.next_name(self._directory, step)

    def commit(self, step: int, parts: Mapping[str, Any]) -> None:
        """Write the checkpoint of environment step `step` under the name that `next_name` gave.

        Raises:
            OSError: The disk is full or not writable; earlier checkpoints are as they were.
        """
        started = time.monotonic()
        path = checkpoint.save(self._directory, step, parts, self._keep)
        logger.info("checkpoint %s in %.1f s", path.name, time.monotonic() - started)

    def saved(self, left_out: Sequence[str] = ()) -> Saved:
        """What a run that ends now leaves."""
        newest = checkpoint.latest(self._directory)
        if newest is None:
            return Saved(None, 0, tuple(left_out))
        return Saved(newest.name, checkpoint.step_of(newest), tuple(left_out))

    def names(self) -> list[str]:
        """Names of the checkpoints that are there, oldest first."""
        return checkpoint.names(self._directory)

    def newest_learner(self) -> dict[str, Any] | None:
        """State of the learner in the newest checkpoint, None before the first.

        Raises:
            CheckpointError: It is damaged.
        """
        newest = checkpoint.latest(self._directory)
        state: dict[str, Any] | None = None if newest is None else checkpoint.load(newest)["learner"]
        return state


_PARTS = {"learner": "algorithm", "replay": "manifest", "limiter": None, "recorder": "steps"}
"""Parts of a checkpoint of a run, with a value that each of them has."""

ACTING = ("learner", "recorder")
"""Those that a trained agent is made of."""


def read(path: Path, needed: Collection[str] = tuple(_PARTS)) -> dict[str, Any]:
    """The parts of a checkpoint of a run.

    Args:
        path: The checkpoint.
        needed: Parts that it must have: all to go on, those of `ACTING` to act.

    Raises:
        CheckpointError: It is damaged, or not one of a run.
    """
    state = checkpoint.load(path)
    for name in needed:
        part, key = state.get(name), _PARTS[name]
        if not isinstance(part, dict) or (key is not None and key not in part):
            raise checkpoint.CheckpointError(
                f"{path} is not of a run: it lacks {name}{'' if key is None else '.' + key}"
            )
    return state


def load_newest(directory: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """Parts of the newest checkpoint that can be read, None if there is none at all, and the damaged ones after it.

    Raises:
        CheckpointError: None of them can be read; what is wrong with the newest.
    """
    damaged: list[Path] = []
    first: checkpoint.CheckpointError | None = None
    for name in reversed(checkpoint.names(directory)):
        try:
            state = read(directory / name)
        except checkpoint.CheckpointError as error:
            first = first or error
            damaged.append(directory / name)
            continue
        for path in damaged:
            logger.warning("checkpoint %s is damaged (%s); the older %s takes its place", path.name, first, name)
        logger.info("resuming from %s", directory / name)
        return state, damaged
    if first is not None:
        raise first
    return None, []


def set_aside(damaged: Sequence[Path]) -> None:
    """Give damaged checkpoints a name that is none, so that no later one is taken for older than they are."""
    for path in damaged:
        path.rename(path.with_name(f"damaged-{path.name}"))


def keep_tail(replay: Path) -> None:
    """Mark the folder of a replay: what is stored from now on does not come again."""
    replay.mkdir(parents=True, exist_ok=True)
    (replay / _TAIL).touch()


def must_keep_tail(replay: Path) -> bool:
    """Whether the tail of the replay in a folder does not come again."""
    return (replay / _TAIL).exists()


def forget_tail(replay: Path) -> None:
    """Take the mark away: a checkpoint holds everything, and what follows comes again."""
    (replay / _TAIL).unlink(missing_ok=True)
