"""Risk measures: literal values, order relations, exact identities, and the kernel against its NumPy twin."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from native import risk_scores
from native.risk_reference import risk_scores as twin
from planners import risk
from planners.risk_config import CvarRisk, EntropicRisk, MeanRisk, MeanStdRisk, VarRisk, WorstRisk

RETURNS = np.array([[4.0, 1.0, 3.0, 2.0, 5.0], [2.0, 2.0, 2.0, 2.0, 2.0], [np.nan, 1.0, 1.0, 1.0, 1.0]], np.float32)
NAN = math.nan


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (MeanRisk(), [3.0, 2.0, NAN]),
        (MeanStdRisk(weight=0.5), [3.0 - 0.5 * math.sqrt(2.0), 2.0, NAN]),
        (VarRisk(alpha=0.4), [2.0, 2.0, NAN]),
        (VarRisk(alpha=0.41), [3.0, 2.0, NAN]),
        (VarRisk(alpha=0.01), [1.0, 2.0, NAN]),
        (CvarRisk(alpha=0.4), [1.5, 2.0, NAN]),
        (CvarRisk(alpha=0.5), [(1.0 + 2.0 + 0.5 * 3.0) / 2.5, 2.0, NAN]),
        (CvarRisk(alpha=0.1), [1.0, 2.0, NAN]),
        (WorstRisk(), [1.0, 2.0, NAN]),
        (EntropicRisk(theta=1.0), [-math.log(sum(math.exp(-x) for x in range(1, 6)) / 5), 2.0, NAN]),
    ],
)
def test_literal_values(measure: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(risk.score(measure, RETURNS), expected, rtol=1e-6)


def normal_particles(mean: float, std: float, count: int = 20000) -> np.ndarray[Any, Any]:
    """Quantiles of a Gaussian in a scrambled order: particles without sampling error."""
    grid = [NormalDist(mean, std).inv_cdf((i + 0.5) / count) for i in range(count)]
    return np.random.default_rng(0).permutation(np.array(grid, np.float32))


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
def test_gaussian_identities(alpha: float) -> None:
    """CVaR = mu - sigma phi(z) / alpha, VaR = mu + sigma z, entropic = mu - theta sigma^2 / 2."""
    mean, std = 1.5, 0.7
    values, unit = normal_particles(mean, std), NormalDist()
    if alpha < 1.0:
        z = unit.inv_cdf(alpha)
        assert risk.var(values, alpha) == pytest.approx(mean + std * z, abs=2e-3)
        assert risk.cvar(values, alpha) == pytest.approx(mean - std * unit.pdf(z) / alpha, abs=5e-3)
    else:
        assert risk.cvar(values, 1.0) == pytest.approx(float(risk.mean(values)), abs=1e-6)
    assert risk.mean_std(values, 2.0) == pytest.approx(mean - 2.0 * std, abs=1e-3)
    assert risk.entropic(values, alpha) == pytest.approx(mean - 0.5 * alpha * std**2, abs=2e-3)


def test_order_relations() -> None:
    values = np.random.default_rng(1).gamma(1.0, 2.0, (50, 12)).astype(np.float32)
    alphas, thetas = (0.05, 0.2, 0.5, 0.9, 1.0), (1e-3, 0.1, 1.0, 10.0)
    tolerance = 1e-5
    for alpha in alphas:
        assert (risk.worst(values) <= risk.cvar(values, alpha) + tolerance).all()
        assert (risk.cvar(values, alpha) <= risk.var(values, alpha) + tolerance).all()
        assert (risk.cvar(values, alpha) <= risk.mean(values) + tolerance).all()
    rising = [risk.cvar(values, alpha) for alpha in alphas], [risk.var(values, alpha) for alpha in alphas]
    falling = [risk.entropic(values, theta) for theta in thetas], [risk.mean_std(values, w) for w in (0.0, 0.5, 2.0)]
    for series, sign in [*((s, 1) for s in rising), *((s, -1) for s in falling)]:
        assert (sign * np.diff(np.stack(series), axis=0) >= -tolerance).all()
    assert (risk.worst(values) <= risk.entropic(values, 10.0) + tolerance).all()
    np.testing.assert_allclose(risk.entropic(values, 1e-4), risk.mean(values), atol=2e-3)
    np.testing.assert_allclose(risk.entropic(values, 500.0), risk.worst(values), atol=1e-2)


MEASURES = [
    MeanRisk(), MeanStdRisk(weight=1.3), VarRisk(alpha=0.3), CvarRisk(alpha=0.35), WorstRisk(), EntropicRisk(theta=0.7)
]  # fmt: skip


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.measure)
def test_a_shift_of_the_returns_shifts_the_score(measure: Any) -> None:
    values = np.random.default_rng(2).standard_normal((20, 10)).astype(np.float32)
    np.testing.assert_allclose(risk.score(measure, values + 5.0), risk.score(measure, values) + 5.0, atol=1e-5)


@pytest.mark.parametrize("part", ["both", "epistemic", "aleatoric"])
@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.measure)
def test_the_kernel_equals_its_twin(measure: Any, part: str) -> None:
    values = np.random.default_rng(3).standard_normal((7, 11, 15)).astype(np.float32) * 3.0
    values[0, 0, 4] = np.nan
    options: dict[str, Any] = {"measure": measure.measure, "parameter": measure.parameter, "part": part, "members": 5}
    found = risk_scores(values, **options)
    np.testing.assert_allclose(found, twin(values, **options), rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(found[3:4], risk_scores(values[3:4].copy(), **options))


def test_the_parts_of_the_randomness() -> None:
    """Member 0 has the returns 0 and 2, member 1 has 10 and 14: particle p is of member p % 2."""
    values = np.array([0.0, 10.0, 2.0, 14.0], np.float32)
    assert risk.score(WorstRisk(part="both"), values, members=2) == 0.0
    assert risk.score(WorstRisk(part="epistemic"), values, members=2) == 1.0
    assert risk.score(WorstRisk(part="aleatoric"), values, members=2) == 5.0
    epistemic, aleatoric = risk.variance_parts(values, 2)
    within = (2.0 + 8.0) / 2
    assert (float(epistemic), float(aleatoric)) == (5.5**2 - within / 2, within)
    alone = risk.variance_parts(values, 4)
    assert (float(alone[0]), float(alone[1])) == (float(values.var()), 0.0)


def test_particles_that_cannot_tell_a_part_are_refused_by_key() -> None:
    with pytest.raises(ValueError, match=r"planner\.risk\.part epistemic needs an ensemble"):
        risk.check_part("epistemic", 10, 1)
    with pytest.raises(ValueError, match=r"planner\.risk\.part aleatoric needs 2 particles per member, 10; .* is 5"):
        risk.check_part("aleatoric", 5, 5)
    risk.check_part("aleatoric", 10, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "sharpe"}, "sharpe"),
        ({"part": "all"}, "part must be .* not all"),
        ({"measure": "cvar", "parameter": 0.0}, r"alpha must be in \(0, 1\], not 0"),
        ({"measure": "var", "parameter": NAN}, "alpha must be"),
        ({"measure": "mean_std", "parameter": -1.0}, "lambda must be finite and not negative, not -1"),
        ({"measure": "entropic", "parameter": math.inf}, "theta must be finite and positive"),
        ({"members": 2}, "particles must be a multiple of the members, not 5"),
    ],
)
def test_the_kernel_refuses_what_is_no_measure(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        risk_scores(RETURNS, **options)
