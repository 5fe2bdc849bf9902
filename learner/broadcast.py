"""Weights on their way from the learner to the actors: as they are, or at half the size."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BroadcastPrecision = Literal["fp32", "bf16"]
_PREFIX = "bf16:"


def pack_weights(weights: dict[str, NDArray[Any]], precision: BroadcastPrecision) -> dict[str, NDArray[Any]]:
    """Weights to send; under "bf16" float32 arrays become the upper halves of their bits, rounded to even.

    Args:
        weights: Finite values.
        precision: "fp32" sends everything as it is.
    """
    if precision == "fp32":
        return weights
    packed: dict[str, NDArray[Any]] = {}
    for name, array in weights.items():
        if array.dtype == np.float32:
            bits = np.asarray(array, order="C").view(np.uint32)
            packed[_PREFIX + name] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        else:
            packed[name] = array
    return packed


def unpack_weights(packed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The weights that `pack_weights` was given, up to the rounding."""
    weights: dict[str, NDArray[Any]] = {}
    for name, array in packed.items():
        if name.startswith(_PREFIX):
            weights[name.removeprefix(_PREFIX)] = (array.astype(np.uint32) << 16).view(np.float32)
        else:
            weights[name] = array
    return weights
