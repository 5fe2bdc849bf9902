"""What the learner asks of an algorithm: one way of combining models, losses and optimisers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learner.batch import SequenceBatch

Part: TypeAlias = Literal["world_model"]
"""What an update may be confined to: the model of the environment, without what acts or values by it."""


@dataclass(frozen=True)
class UpdateResult:
    """What one update has to say."""

    metrics: dict[str, float]
    priorities: NDArray[np.float32] | None = None  # [B] new replay priorities of the batch's sequences
    writebacks: dict[str, NDArray[Any]] = field(default_factory=dict)  # key -> [B, T, ...] for the last T steps
    version: int | None = None  # of the weights the write-backs were made with, if older ones must not overwrite them
    skipped: tuple[str, ...] = ()  # metrics, or norms of gradients, that are not finite: nothing was changed


def nonfinite(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the metrics that are NaN or infinite."""
    return tuple(name for name, value in metrics.items() if not math.isfinite(value))


Gift = Literal["priorities", "writebacks", "targets"]
"""What an algorithm can give back to the replay; targets its policy stores and can make anew (`actors.reanalyze`)."""


@dataclass(frozen=True)
class Exchange:
    """What an algorithm and the replay give each other; the property `exchange` of its configuration."""

    gives: frozenset[Gift] = frozenset()  # what the results of its updates hold, when it is wanted
    weights: bool = False  # whether its losses are weighted by the importance weights of a batch
    whole_batches: bool = False  # whether an update needs a whole batch, never a minibatch


class Algorithm(Protocol):
    """A learning algorithm. Data-parallel ranks call `update` in step with each other."""

    def update(self, batch: SequenceBatch, part: Part | None = None) -> UpdateResult:
        """Take one optimisation step, of `part` alone if one is given.

        An update of which a loss or a gradient is not finite on any rank is skipped on every rank: its result says so,
        and the algorithm is as before, its random states included.
        """
        ...

    def export_weights(self) -> dict[str, NDArray[Any]]:
        """What actors need to act, as arrays that later updates do not touch; rank 0 alone is asked."""
        ...

    def save_artifacts(self, directory: Path) -> list[Path]:
        """Write the trained models as files of their own, and return the files."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything an update depends on but the configuration: plain Python values, arrays and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`: later updates are the same as without the interruption."""
        ...
