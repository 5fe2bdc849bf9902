"""NumPy twin of native.risk_scores in float64; see native/reference.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def risk_scores(
    returns: NDArray[Any], *, measure: str = "mean", parameter: float = 0.0, part: str = "both", members: int = 1
) -> Floats:
    """Scores [...] of particle returns [..., P]; see native.risk_scores."""
    values = np.asarray(returns, np.float64)
    over = _MEASURES[measure]
    grouped = values.reshape(*values.shape[:-1], -1, members)  # [..., P / K, K]
    if part == "both":
        scores = over(values, parameter)
    elif part == "epistemic":
        scores = over(grouped.mean(axis=-2), parameter)
    else:
        scores = over(np.swapaxes(grouped, -1, -2), parameter).mean(axis=-1)
    return np.where(np.isnan(values).any(axis=-1), np.nan, scores)


def _mean(values: Floats, _: float) -> Floats:
    return values.mean(axis=-1)  # type: ignore[no-any-return]


def _mean_std(values: Floats, weight: float) -> Floats:
    return values.mean(axis=-1) - weight * values.std(axis=-1)  # type: ignore[no-any-return]


def _var(values: Floats, alpha: float) -> Floats:
    rank = max(1, math.ceil(alpha * values.shape[-1] - 1e-9))
    return np.sort(values, axis=-1)[..., rank - 1]


def _cvar(values: Floats, alpha: float) -> Floats:
    tail = alpha * values.shape[-1]
    share = np.clip(tail - np.arange(values.shape[-1]), 0.0, 1.0)
    return np.sort(values, axis=-1) @ share / tail  # type: ignore[no-any-return]


def _worst(values: Floats, _: float) -> Floats:
    return values.min(axis=-1)  # type: ignore[no-any-return]


def _entropic(values: Floats, theta: float) -> Floats:
    least = values.min(axis=-1, keepdims=True)
    grown = np.exp(-theta * (values - least)).mean(axis=-1)
    return least[..., 0] - np.log(grown) / theta  # type: ignore[no-any-return]


_MEASURES: dict[str, Callable[[Floats, float], Floats]] = {
    "mean": _mean,
    "mean_std": _mean_std,
    "var": _var,
    "cvar": _cvar,
    "worst": _worst,
    "entropic": _entropic,
}
