"""Risk measures over particle returns: the scores of candidates, by the C++ kernel.

A measure maps returns [..., P] to scores [...], higher is better; a NaN particle makes its candidate's score NaN,
which the search ranks last. A score depends on its own returns alone. For every measure of one distribution

    worst <= cvar(alpha) <= var(alpha),  cvar(alpha) <= mean,  worst <= entropic(theta) <= mean,

they are monotone in alpha, theta and the weight, and shift with the returns (mean_std is not monotone in them).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from native import risk_scores
from planners.base import Objective
from planners.risk_config import (
    CvarRisk,
    EntropicRisk,
    MeanRisk,
    MeanStdRisk,
    Risk,
    RiskConfig,
    RiskPart,
    VarRisk,
    WorstRisk,
)

Floats = NDArray[np.float32]


def score(risk: RiskConfig, returns: Floats, members: int = 1) -> Floats:
    """Scores [...] of particle returns [..., P] under a measure.

    Args:
        risk: The measure.
        returns: Of P particles, particle p of member p % members.
        members: K.

    Raises:
        ValueError: P is no multiple of the members.
    """
    values = np.ascontiguousarray(returns, np.float32)
    return risk_scores(values, measure=risk.measure, parameter=float(risk.parameter), part=risk.part, members=members)


def mean(returns: Floats) -> Floats:
    """Mean over particles."""
    return score(MeanRisk(), returns)


def mean_std(returns: Floats, weight: float) -> Floats:
    """Mean - weight * standard deviation over particles."""
    return score(MeanStdRisk(weight=weight), returns)


def var(returns: Floats, alpha: float) -> Floats:
    """inf {x : share of particles <= x is at least alpha}."""
    return score(VarRisk(alpha=alpha), returns)


def cvar(returns: Floats, alpha: float) -> Floats:
    """Mean of the worst alpha * P particles, the last of them weighed by its fraction."""
    return score(CvarRisk(alpha=alpha), returns)


def worst(returns: Floats) -> Floats:
    """Minimum over particles."""
    return score(WorstRisk(), returns)


def entropic(returns: Floats, theta: float) -> Floats:
    """-log(mean(exp(-theta * returns))) / theta."""
    return score(EntropicRisk(theta=theta), returns)


def make_objective(risk: Risk, members: int = 1) -> Objective:
    """The measure as a function of returns [..., P]."""
    return lambda returns: score(risk, returns, members)


def check_part(part: RiskPart, particles: int, members: int) -> None:
    """Whether particles can tell the part of the randomness.

    Raises:
        ValueError: Epistemic of a single member, or aleatoric of one particle per member.
    """
    if part == "epistemic" and members < 2:
        raise ValueError("planner.risk.part epistemic needs an ensemble of at least 2 members; this model has 1")
    if part == "aleatoric" and particles < 2 * members:
        raise ValueError(
            f"planner.risk.part aleatoric needs 2 particles per member, {2 * members}; planner.particles is {particles}"
        )


def variance_parts(returns: Floats, members: int) -> tuple[Floats, Floats]:
    """Epistemic and aleatoric variance [...] of particle returns [..., P], by the law of total variance.

    The noise of the members' means, aleatoric / (P / K), is subtracted from the epistemic part, down to 0. With one
    particle per member all variance is epistemic.
    """
    own = returns.shape[-1] // members
    grouped = np.asarray(returns, np.float64).reshape(*returns.shape[:-1], own, members)
    between = grouped.mean(axis=-2).var(axis=-1)
    if own == 1:
        return between.astype(np.float32), np.zeros_like(between, np.float32)
    within = grouped.var(axis=-2, ddof=1).mean(axis=-1)
    return np.maximum(between - within / own, 0.0).astype(np.float32), within.astype(np.float32)
