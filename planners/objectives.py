"""Objectives: scores of candidates from the returns of their particles.

An objective maps returns [..., P] to scores [...], higher is better; a NaN particle makes its candidate's score NaN,
which the search ranks last. A risk measure is one function here and one line in `_OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from planners.base import Objective


def mean(returns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over particles: risk neutral."""
    result: NDArray[np.float32] = np.mean(returns, axis=-1, dtype=np.float32)
    return result


def mean_minus_std(returns: NDArray[np.float32], risk_lambda: float) -> NDArray[np.float32]:
    """Mean minus `risk_lambda` standard deviations over particles (Markowitz, 1952)."""
    result: NDArray[np.float32] = mean(returns) - np.float32(risk_lambda) * np.std(returns, axis=-1, dtype=np.float32)
    return result


_OBJECTIVES: dict[str, Callable[[float], Objective]] = {
    "mean": lambda risk_lambda: mean,
    "mean_std": lambda risk_lambda: partial(mean_minus_std, risk_lambda=risk_lambda),
}


def make_objective(name: str, risk_lambda: float = 0.0) -> Objective:
    """The objective `name` with its parameter.

    Raises:
        ValueError: No objective has this name.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(_OBJECTIVES)}, not {name!r}")
    return _OBJECTIVES[name](risk_lambda)
