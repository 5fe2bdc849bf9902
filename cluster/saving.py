"""Checkpoints of a run on Ray: begun in passing, written while all goes on, committed when every part is there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.checkpoints import Checkpoints
from cluster.fleet import Fleet, in_words

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PendingCheckpoint:
    """A checkpoint on its way to the disk."""

    name: str
    step: int
    books: dict[str, Any]  # limiter and recorder when it was begun
    calls: list[Any]  # the learner's state, then the shards' manifests


class Saving:
    """The checkpoint that is pending, one at a time.

    Args:
        checkpoints: Where checkpoints go.
        fleet: Gives the learner's state and the shards' manifests.
    """

    def __init__(self, checkpoints: Checkpoints, fleet: Fleet) -> None:
        self._checkpoints, self._fleet = checkpoints, fleet
        self.pending: PendingCheckpoint | None = None
        self.retaining: list[Any] = []  # calls that drop what only older checkpoints need

    def begin(self, step: int, books: dict[str, Any]) -> bool:
        """Begin a checkpoint, unless one is pending or the learner is to start again; whether one is pending."""
        if self.pending is None and self._fleet.complete("learner"):
            name = self._checkpoints.next_name(step)
            self.pending = PendingCheckpoint(name, step, books, self._fleet.begin_checkpoint(name))
        return self.pending is not None

    def give_up(self) -> None:
        """Forget the pending checkpoint, if there is one."""
        self.pending = None

    def end(self) -> bool:
        """Commit the pending checkpoint if its parts are there; whether it is.

        One whose learner or shard has died is given up: the next one is due later.

        Raises:
            OSError: It could not be written.
        """
        pending = self.pending
        if pending is None:
            return False
        if len(ray.wait(pending.calls, num_returns=len(pending.calls), timeout=0)[0]) < len(pending.calls):
            return False
        self.pending = None
        try:
            learner, *_ = ray.get(pending.calls)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, OSError):
                raise error.cause from None
            logger.warning("checkpoint %s is given up: %s", pending.name, in_words(error))
            return False
        parts = {"learner": learner, "replay": {"manifest": pending.name}, **pending.books}
        self._checkpoints.commit(pending.step, parts)
        self.retaining = self._fleet.retain(self._checkpoints.names())
        return True
