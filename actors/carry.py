"""Rows and leaves of a policy's carry.

A carry is any tree of dataclasses, mappings, tuples and lists whose leaves are arrays (NumPy or torch)
with one row per environment first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_rows(carry: Any, index: NDArray[np.int64] | NDArray[np.bool_]) -> Any:
    """The rows `index` (ids or a boolean mask) of every leaf, in a tree of the same types.

    Raises:
        TypeError: A leaf has no rows.
    """
    return _map(carry, lambda leaf: leaf[index])


def leaves(carry: Any) -> list[NDArray[Any]]:
    """Copies of the leaves as NumPy arrays, in a fixed order.

    Raises:
        TypeError: A leaf has no rows.
    """
    found: list[NDArray[Any]] = []
    _map(carry, lambda leaf: found.append(np.array(leaf)))
    return found


def with_leaves(template: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    """The tree `template` with other leaves: the reverse of `leaves`.

    Raises:
        ValueError: The number of leaves, or the shape of one, differs.
        TypeError: A leaf of the template has no rows.
    """
    rest = list(arrays)

    def replace(leaf: Any) -> Any:
        if not rest or rest[0].shape != tuple(leaf.shape):
            found = rest[0].shape if rest else "nothing"
            raise ValueError(f"a saved carry has {found} where a leaf of shape {tuple(leaf.shape)} belongs")
        array = rest.pop(0)
        return array.astype(leaf.dtype) if isinstance(leaf, np.ndarray) else leaf.new_tensor(array)

    tree = _map(template, replace)
    if rest:
        raise ValueError(f"a saved carry has {len(rest)} leaves more than belong")
    return tree


def _map(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The tree with `function` applied to every leaf."""
    if tree is None:
        return None
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {field.name: _map(getattr(tree, field.name), function) for field in dataclasses.fields(tree)}
        return dataclasses.replace(tree, **fields)
    if isinstance(tree, dict):
        return {key: _map(value, function) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(value, function) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_map(value, function) for value in tree)
    if getattr(tree, "ndim", 0) < 1:
        raise TypeError(f"carry leaf of type {type(tree).__name__} has no rows")
    return function(tree)
