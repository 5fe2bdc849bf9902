"""Updates that are not made because a loss or a gradient is not finite: their record, and how many there may be.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.algorithms.base import Part
from learner.batch import SequenceBatch
from learner.collective import current

logger = logging.getLogger(__name__)

MOST_BUNDLES = 3
"""Bundles of one run."""


class NonFiniteError(FloatingPointError):
    """Too many updates in a row were not finite, or one that was not has been made all the same."""


@dataclass(frozen=True)
class SkippedUpdate:
    """An update that was not made."""

    update: int  # its number, had it been made; 1 is the first
    batch: SequenceBatch  # this rank's share
    part: Part | None  # what it was confined to
    values: dict[str, float]  # the metrics, and norms of gradients, that are not finite
    state: Callable[[], dict[str, Any]]  # of the learner before it, with its random states


BundleSink = Callable[[SkippedUpdate], Path | None]
"""Writes what it takes to run the update again, together with all ranks; where, or None if that failed."""


def bad_entries(batch: SequenceBatch, most: int = 5) -> list[str]:
    """What in a batch is NaN or infinite, a line for each of the first `most`."""
    found: list[str] = []
    for key, values in batch.data.items():
        if not np.issubdtype(values.dtype, np.floating):
            continue
        for row, step in np.argwhere(~np.isfinite(values).reshape(*batch.shape, -1).all(2))[: most - len(found)]:
            bad = values[row, step][~np.isfinite(values[row, step])].flat[0]
            stream, at = batch.stream_id[row], batch.first_step[row] + step
            found.append(f"{key} of sequence {row}, step {step} (step {at} of stream {stream}) is {bad}")
    weights = np.flatnonzero(~np.isfinite(batch.weight))[: most - len(found)]
    return found + [f"weight of sequence {i} (stream {batch.stream_id[i]}) is {batch.weight[i]}" for i in weights]


class Firewall:
    """Counts skipped updates, alike on every rank, has bundles of them written, and ends a run of too many.

    The first of skipped updates in a row leaves a bundle, while the run has fewer than `MOST_BUNDLES`; those that end
    the run leave one in any case.

    Args:
        budget: Updates in a row whose skipping is an error.
        device: Of the learner.
        write: Writes a bundle.
    """

    def __init__(self, budget: int, device: torch.device, write: BundleSink | None = None) -> None:
        self._budget, self._device, self._write = budget, device, write
        self._in_a_row = 0
        self._bundles = 0
        self._bundle: Path | None = None

    def passed(self) -> None:
        """Note an update that was made."""
        self._in_a_row, self._bundle = 0, None

    def skipped(self, skipped: SkippedUpdate) -> None:
        """Note an update that was not.

        Raises:
            NonFiniteError: The budget is spent.
        """
        self._in_a_row += 1
        spent = self._in_a_row >= self._budget
        first = self._in_a_row == 1 and self._bundles < MOST_BUNDLES
        if self._write is not None and (first or (spent and self._bundle is None)):
            self._bundle = self._write(skipped)
            self._bundles += 1
        text = f"update {skipped.update} was skipped: {self._reason(skipped)}"
        if self._bundle is not None:
            text += f"; to see where it begins: worldfleet replay-update {self._bundle}"
        if spent:
            raise NonFiniteError(f"{self._in_a_row} updates in a row were not finite; {text}")
        if self._in_a_row == 1 and current().rank == 0:
            logger.warning("%s", text)

    def state_dict(self) -> dict[str, int]:
        return {"in_a_row": self._in_a_row, "bundles": self._bundles}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._in_a_row, self._bundles, self._bundle = state["in_a_row"], state["bundles"], None

    def _reason(self, skipped: SkippedUpdate) -> str:
        """What is not finite, and whether the batch of any rank was so already."""
        values = ", ".join(f"{name} is {value}" for name, value in list(skipped.values.items())[:3])
        entries = bad_entries(skipped.batch, 1)
        bad = current().gather(torch.full((1,), float(bool(entries)), device=self._device)).nonzero().flatten().tolist()
        if not bad:
            return f"{values}, of a batch that is finite"
        where = entries[0] if entries else f"that of rank {bad[0]}"
        return f"{values}, as the batch holds values that are not finite: {where}"
