"""Large arrays in pieces that Ray copies fast.

Ray copies every buffer above 1 MiB into its object store with six threads started for it; on machines with few free
cores that takes two to three times as long as one copy by the calling thread. Buffers up to 1 MiB are copied plainly,
so what is large travels as a list of pieces, in one object all the same.

Letters: B sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.batch import SequenceBatch

SEGMENT_BYTES = 1 << 20
_ROW_FIELDS = tuple(field.name for field in fields(SequenceBatch) if field.name != "data")


def split(array: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of `array` [N, ...], cut along N into pieces of at most `SEGMENT_BYTES` or of one row."""
    rows = max(1, SEGMENT_BYTES * len(array) // max(array.nbytes, 1))
    return [array[row : row + rows] for row in range(0, len(array), rows)]


def join(pieces: Sequence[NDArray[Any]], out: NDArray[Any]) -> None:
    """Copy the pieces of an array into `out`, which has its shape.

    Raises:
        ValueError: They are not the pieces of such an array.
    """
    total = sum(len(piece) for piece in pieces)
    if total != len(out):
        raise ValueError(f"pieces have {total} rows, expected are {len(out)}")
    row = 0
    for piece in pieces:
        out[row : row + len(piece)] = piece
        row += len(piece)


@dataclass(frozen=True)
class SplitBatch:
    """A `SequenceBatch` in pieces."""

    data: dict[str, list[NDArray[Any]]]  # key -> pieces [b, T, ...]
    rows: dict[str, NDArray[Any]]  # the arrays [B, ...] with one row per sequence

    @classmethod
    def of(cls, batch: SequenceBatch) -> SplitBatch:
        """Views of a batch."""
        data = {key: split(value) for key, value in batch.data.items()}
        return cls(data, {name: getattr(batch, name) for name in _ROW_FIELDS})

    def copy_to(self, target: SequenceBatch) -> None:
        """Copy everything into a batch of the same shape.

        Raises:
            ValueError: The shapes differ.
        """
        for key, pieces in self.data.items():
            join(pieces, target.data[key])
        for name, value in self.rows.items():
            np.copyto(getattr(target, name), value)
