"""What an environment returns, held against its spec."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.specs import ArraySpec


class ContractError(ValueError):
    """An environment returned what its spec rules out; the text names the environment, the key and both values."""


def to_array(value: Any, spec: ArraySpec, what: str) -> NDArray[Any]:
    """`value` as an array of the shape and dtype of `spec`.

    Floats are rounded to the spec's width, integers and booleans are taken for floats, and integers of another width
    where every value fits.

    Args:
        value: An array, or what NumPy makes one of.
        spec: What it should be.
        what: The value's name, for the error.

    Raises:
        ContractError: For another shape, or a dtype whose values would change.
    """
    dtype = np.dtype(spec.dtype)
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ContractError(f"{what} is no array ({error}); its spec says shape {spec.shape}") from None
    if array.shape != spec.shape:
        raise ContractError(f"{what} has shape {array.shape}, its spec says {spec.shape}")
    if array.dtype.kind in ("fiub" if dtype.kind == "f" else "iub"):
        with np.errstate(over="ignore"):  # an infinity is found with the others
            cast = array.astype(dtype, copy=False)
        if dtype.kind == "f" or np.array_equal(cast, array):
            return cast
    raise ContractError(f"{what} is {brief(array)} of dtype {array.dtype}, its spec says {dtype}")


def brief(values: NDArray[Any]) -> str:
    """The values on one line, shortened."""
    return np.array2string(values, threshold=8, edgeitems=3, precision=8).replace("\n", "")
