"""Rows and leaves of trees of arrays: a policy's carry and output, a batch of steps.

A tree is any nest of dataclasses, mappings, tuples and lists whose leaves are arrays (NumPy or torch)
with one row per environment first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def take_rows(carry: Any, index: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Any:
    """The rows `index` (ids, a boolean mask or a slice) of every leaf, in a tree of the same types.

    Raises:
        TypeError: A leaf has no rows.
    """
    return _map(lambda leaf: leaf[index], carry)


def concatenate_rows(trees: Sequence[Any]) -> Any:
    """The rows of some trees of one kind, in order, as one tree; at least one.

    Raises:
        TypeError: A leaf has no rows.
    """

    def concatenate(*parts: Any) -> Any:
        rows = np.concatenate(parts)
        return rows if isinstance(parts[0], np.ndarray) else parts[0].new_tensor(rows)

    return _map(concatenate, *trees)


def put_rows(carry: Any, index: NDArray[np.int64] | slice, rows: Any) -> Any:
    """A copy of the tree in which the rows `index` are those of the tree `rows`.

    Raises:
        TypeError: A leaf has no rows.
    """

    def put(leaf: Any, part: Any) -> Any:
        changed = leaf.copy() if isinstance(leaf, np.ndarray) else leaf.clone()
        changed[index] = part
        return changed

    return _map(put, carry, rows)


def leaves(carry: Any) -> list[NDArray[Any]]:
    """Copies of the leaves as NumPy arrays, in a fixed order.

    Raises:
        TypeError: A leaf has no rows.
    """
    found: list[NDArray[Any]] = []
    _map(lambda leaf: found.append(np.array(leaf)), carry)
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

    tree = _map(replace, template)
    if rest:
        raise ValueError(f"a saved carry has {len(rest)} leaves more than belong")
    return tree


def _map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree with `function` applied to every leaf, together with the leaves of the others at the same place."""
    if tree is None:
        return None
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        fields = {name: _map(function, *(getattr(t, name) for t in (tree, *others))) for name in names}
        return dataclasses.replace(tree, **fields)
    if isinstance(tree, dict):
        return {key: _map(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        values = [_map(function, *parts) for parts in zip(tree, *others, strict=True)]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    if getattr(tree, "ndim", 0) < 1:
        raise TypeError(f"carry leaf of type {type(tree).__name__} has no rows")
    return function(tree, *others)
