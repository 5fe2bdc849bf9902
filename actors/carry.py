"""Rows of a policy's carry.

A carry is any tree of dataclasses, mappings, tuples and lists whose leaves are arrays (NumPy or torch)
with one row per environment first.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_rows(carry: Any, index: NDArray[np.int64] | NDArray[np.bool_]) -> Any:
    """The rows `index` (ids or a boolean mask) of every leaf, in a tree of the same types.

    Raises:
        TypeError: A leaf has no rows.
    """
    if carry is None:
        return None
    if dataclasses.is_dataclass(carry) and not isinstance(carry, type):
        rows = {field.name: take_rows(getattr(carry, field.name), index) for field in dataclasses.fields(carry)}
        return dataclasses.replace(carry, **rows)
    if isinstance(carry, dict):
        return {key: take_rows(value, index) for key, value in carry.items()}
    if isinstance(carry, tuple) and hasattr(carry, "_fields"):
        return type(carry)(*(take_rows(value, index) for value in carry))
    if isinstance(carry, tuple | list):
        return type(carry)(take_rows(value, index) for value in carry)
    if getattr(carry, "ndim", 0) < 1:
        raise TypeError(f"carry leaf of type {type(carry).__name__} has no rows")
    return carry[index]
