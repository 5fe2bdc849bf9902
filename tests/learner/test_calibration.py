"""Calibration of particles: what a calibrated, an overconfident and an uninformed model show."""

import numpy as np
import pytest

from learner.calibration import calibration, covered, crps, ence, miscalibration_area, pit, spearman


def normal(count: int, spread: np.ndarray, rng: np.random.Generator, particles: int = 99) -> tuple:
    """Particles [N, P, 1] of normals of the given spread around 0, and truths of spread 1 each."""
    return spread[:, None, None] * rng.standard_normal((count, particles, 1)), rng.standard_normal((count, 1))


def test_a_calibrated_model_covers_what_it_says_and_has_no_area() -> None:
    samples, truth = normal(4000, np.ones(4000), np.random.default_rng(0))
    level = pit(samples, truth)
    assert covered(level, 0.9) == pytest.approx(0.9, abs=0.02)
    assert covered(level, 0.5) == pytest.approx(0.5, abs=0.03)
    assert miscalibration_area(level) < 0.02


def test_an_overconfident_model_covers_less() -> None:
    samples, truth = normal(4000, np.full(4000, 0.1), np.random.default_rng(0))
    level = pit(samples, truth)
    assert covered(level, 0.9) < 0.2
    assert miscalibration_area(level) > 0.4


def test_crps_is_that_of_a_normal() -> None:
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((1, 200_000, 1))
    # Gneiting and Raftery 2007, eq. 21, at y = 0 and y = 1.
    assert crps(samples, np.array([[0.0]]))[0, 0] == pytest.approx(0.2337, abs=2e-3)
    assert crps(samples, np.array([[1.0]]))[0, 0] == pytest.approx(0.6024, abs=4e-3)


def test_crps_does_not_depend_on_the_number_of_particles() -> None:
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((20_000, 1))
    few, many = (crps(rng.standard_normal((20_000, count, 1)), truth).mean() for count in (2, 50))
    assert few == pytest.approx(many, abs=0.02)


def test_ence_compares_errors_with_deviations_bin_by_bin() -> None:
    deviation = np.repeat([1.0, 2.0], 10)[:, None]
    error = np.repeat([1.0, 4.0], 10)[:, None]  # the larger deviation is half its error: 0 and 1
    assert ence(deviation, error, bins=2) == pytest.approx(0.5)


def test_rank_correlation_shares_the_ranks_of_ties() -> None:
    assert spearman(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [4.0], [9.0]])) == pytest.approx(1.0)
    assert spearman(np.array([[1.0], [2.0], [3.0]]), np.array([[3.0], [2.0], [1.0]])) == pytest.approx(-1.0)
    assert spearman(np.array([[1.0], [1.0], [2.0]]), np.array([[5.0], [5.0], [9.0]])) == pytest.approx(1.0)
    assert spearman(np.ones((3, 1)), np.array([[1.0], [2.0], [3.0]])) == 0.0


def test_the_oracle_is_what_single_errors_let_a_calibrated_model_reach() -> None:
    rng = np.random.default_rng(3)
    spread = rng.uniform(0.1, 3.0, 3000)
    samples = spread[:, None, None, None] * rng.standard_normal((3000, 1, 40, 1))
    truth = spread[:, None, None] * rng.standard_normal((3000, 1, 1))
    found = calibration(samples, truth, np.ones(1))
    assert 0.4 < found.spearman[0] < 0.8
    assert found.spearman[0] == pytest.approx(found.spearman_calibrated[0], abs=0.05)
    assert found.ence[0] == pytest.approx(found.ence_calibrated[0], abs=0.05)
    shuffled = calibration(samples, rng.permutation(truth), np.ones(1))
    assert abs(shuffled.spearman[0]) < 0.1


def test_dimensions_that_do_not_vary_are_left_out() -> None:
    rng = np.random.default_rng(4)
    samples, truth = rng.standard_normal((50, 2, 20, 2)), rng.standard_normal((50, 2, 2))
    both = calibration(samples, truth, np.array([1.0, 0.0])).as_dict()
    one = calibration(samples[..., :1], truth[..., :1], np.ones(1)).as_dict()
    assert both == one
    assert len(both["coverage_90"]) == 2
