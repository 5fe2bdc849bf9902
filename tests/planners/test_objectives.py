import numpy as np
import pytest

from planners.objectives import make_objective

RETURNS = np.array([[1.0, 3.0], [2.0, 2.0], [np.nan, 5.0]], np.float32)


def test_mean() -> None:
    np.testing.assert_allclose(make_objective("mean")(RETURNS), [2.0, 2.0, np.nan])


def test_mean_minus_std_prefers_the_certain_candidate() -> None:
    np.testing.assert_allclose(make_objective("mean_std", 0.5)(RETURNS), [1.5, 2.0, np.nan])


def test_a_risk_aversion_of_zero_is_the_mean() -> None:
    returns = np.random.default_rng(0).standard_normal((4, 7, 5)).astype(np.float32)
    np.testing.assert_array_equal(make_objective("mean_std", 0.0)(returns), make_objective("mean")(returns))
    assert make_objective("mean")(returns).shape == (4, 7)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="sharpe"):
        make_objective("sharpe")
