"""The keys, dtypes and shapes that every step of a replay has in common."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP_KEYS = ("action", "reward", "is_first", "is_last", "is_terminal", "episode")
"""Keys that every block holds besides its observations."""


@dataclass(frozen=True)
class Column:
    """One stored array."""

    key: str
    dtype: str  # NumPy dtype string with byte order, e.g. "<f4"
    shape: tuple[int, ...]  # of one step

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype as an object."""
        return np.dtype(self.dtype)

    @cached_property
    def step_bytes(self) -> int:
        """Bytes of one step."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.numpy_dtype.itemsize


@dataclass(frozen=True)
class Schema:
    """The columns of a block, ordered by key."""

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, data: Mapping[str, NDArray[Any]]) -> Schema:
        """The schema of arrays [T, ...] by key.

        Raises:
            ValueError: A key of `STEP_KEYS` is missing, an array has no time axis, the numbers of steps
                differ, or a dtype is not a plain number.
        """
        missing = [key for key in STEP_KEYS if key not in data]
        if missing:
            raise ValueError(f"block lacks the keys {missing}, it has {sorted(data)}")
        num_steps = len(data["reward"])
        for key, value in data.items():
            if value.ndim < 1 or len(value) != num_steps:
                raise ValueError(f"block key {key!r} has shape {value.shape}, expected {num_steps} steps first")
            if value.dtype.kind not in "biuf":
                raise ValueError(f"block key {key!r} has dtype {value.dtype}, expected a plain number")
        return cls(tuple(Column(key, data[key].dtype.str, data[key].shape[1:]) for key in sorted(data)))

    @cached_property
    def step_bytes(self) -> int:
        """Bytes of one step over all columns."""
        return sum(column.step_bytes for column in self.columns)

    def matches(self, data: Mapping[str, NDArray[Any]]) -> bool:
        """Whether arrays [T, ...] by key have exactly these columns; cheaper than `Schema.of`."""
        num_steps = len(data["reward"]) if "reward" in data else -1
        return len(data) == len(self.columns) and all(
            (array := data.get(column.key)) is not None
            and array.dtype == column.numpy_dtype
            and array.shape == (num_steps, *column.shape)
            for column in self.columns
        )

    @cached_property
    def hash(self) -> int:
        """A 32-bit fingerprint, equal on every machine."""
        return zlib.crc32(repr(self.as_lists()).encode())

    def as_lists(self) -> list[list[Any]]:
        """The columns as plain lists, for headers and manifests."""
        return [[column.key, column.dtype, list(column.shape)] for column in self.columns]

    @classmethod
    def from_lists(cls, columns: list[list[Any]]) -> Schema:
        """The inverse of `as_lists`."""
        return cls(tuple(Column(str(key), str(dtype), tuple(shape)) for key, dtype, shape in columns))

    def check(self, other: Schema) -> None:
        """Raise a ValueError that names the first column of `other` that differs from this schema."""
        if other == self:
            return
        ours, theirs = ({column.key: column for column in schema.columns} for schema in (self, other))
        if ours.keys() != theirs.keys():
            raise ValueError(
                f"block keys differ from the replay's: missing {sorted(ours.keys() - theirs.keys())}, "
                f"unknown {sorted(theirs.keys() - ours.keys())}"
            )
        for key, column in ours.items():
            if theirs[key] != column:
                raise ValueError(
                    f"block key {key!r} is {theirs[key].dtype} {theirs[key].shape} per step, "
                    f"the replay stores {column.dtype} {column.shape}"
                )
