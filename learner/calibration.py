"""Whether a model's uncertainty is as large as its errors are, at every horizon by itself.

Predictions are particles, so nothing here takes them for Gaussian. Horizons are never pooled: errors and deviations
both grow with the horizon, so that any model would rank well.

Figures that even a calibrated model misses (ENCE of finitely many errors, a rank correlation with single errors) have
beside them the value of a model that is calibrated: the same figure where the truth is one of the model's particles.

Letters: N predictions, H horizon, P particles, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LEVELS = (0.5, 0.8, 0.9)
"""Of the central intervals whose coverage is reported."""
BINS = 10
"""Of ENCE, with as many predictions each."""
_GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Calibration:
    """One number per horizon, [H]; means over the dimensions."""

    coverage: dict[float, Array]  # level -> share of the truths inside the central interval of that level
    area: Array  # miscalibration area: mean difference of nominal and observed coverage, 0 to 0.5
    crps: Array  # continuous ranked probability score in standard deviations of the test set
    ence: Array  # expected normalised calibration error of the deviations
    ence_calibrated: Array  # of a calibrated model
    spearman: Array  # rank correlation of deviation and size of the error
    spearman_calibrated: Array
    sharpness: Array  # mean deviation in standard deviations of the test set

    def as_dict(self) -> dict[str, list[float]]:
        """Plain values, for JSON."""
        plain = {name: value.tolist() for name, value in vars(self).items() if name != "coverage"}
        return plain | {f"coverage_{100 * level:.0f}": value.tolist() for level, value in self.coverage.items()}


def calibration(samples: Array, truth: NDArray[np.floating], std: Array, seed: int = 0) -> Calibration:
    """All figures at every horizon.

    Args:
        samples: [N, H, P, D] particles with the noise of the last step; at least two.
        truth: [N, H, D].
        std: [D] standard deviation of the test set; dimensions without any are left out.
        seed: Of the draws that stand for the truth of a calibrated model.
    """
    varies = std > 1e-9
    samples = samples[..., varies] / std[varies]
    truth = truth[..., varies] / std[varies]
    rng = np.random.default_rng(seed)
    columns = [_one_horizon(samples[:, k], truth[:, k], rng) for k in range(samples.shape[1])]
    stacked = {name: np.array([column[name] for column in columns]) for name in columns[0]}
    covered = {level: stacked.pop(f"coverage {level}") for level in LEVELS}
    return Calibration(covered, **stacked)


def _one_horizon(samples: Array, truth: Array, rng: np.random.Generator) -> dict[str, float]:
    """The figures of particles [N, P, D] and truths [N, D]."""
    mean, deviation = samples.mean(1), samples.std(1)
    place = rng.integers(samples.shape[1], size=len(samples))
    drawn = samples[np.arange(len(samples)), place]
    level = pit(samples, truth)
    error, imagined = truth - mean, drawn - mean
    result = {f"coverage {nominal}": covered(level, nominal) for nominal in LEVELS}
    return result | {
        "area": miscalibration_area(level),
        "crps": float(crps(samples, truth).mean()),
        "ence": ence(deviation, error),
        "ence_calibrated": ence(deviation, imagined),
        "spearman": spearman(deviation, np.abs(error)),
        "spearman_calibrated": spearman(deviation, np.abs(imagined)),
        "sharpness": float(deviation.mean()),
    }


def pit(samples: Array, truth: Array) -> Array:
    """Probability integral transform [N, D] of truths [N, D] among particles [N, P, D]: uniform if calibrated.

    The truth is one of P + 1 exchangeable values: its place among them over P + 1, in the middle of its step.
    """
    below = (samples < truth[:, None]).sum(1) + 0.5 * (samples == truth[:, None]).sum(1)
    return np.asarray((below + 0.5) / (samples.shape[1] + 1))


def covered(level: Array, nominal: float) -> float:
    """Share of the transforms [N, D] inside the central interval of a nominal coverage."""
    return float((np.abs(2.0 * level - 1.0) <= nominal).mean())


def miscalibration_area(level: Array) -> float:
    """Mean over nominal coverages of |observed - nominal| (Kuleshov et al. 2018) of transforms [N, D]."""
    width = np.sort(np.abs(2.0 * level - 1.0).reshape(-1))
    observed = np.searchsorted(width, _GRID, side="right") / width.size
    return float(np.trapezoid(np.abs(observed - _GRID), _GRID))


def crps(samples: Array, truth: Array) -> Array:
    """Continuous ranked probability score [N, D] of particles [N, P, D], unbiased in their number (Ferro 2014)."""
    count = samples.shape[1]
    ordered = np.sort(samples, axis=1)
    weight = 2.0 * np.arange(count) - count + 1.0  # sum over pairs of |x - x'| is 2 sum of weight times order statistic
    spread = np.tensordot(ordered, weight, axes=(1, 0)) / (count * (count - 1))
    return np.asarray(np.abs(samples - truth[:, None]).mean(1) - spread)


def ence(deviation: Array, error: Array, bins: int = BINS) -> float:
    """Expected normalised calibration error (Levi et al. 2019), mean over dimensions.

    Of bins of equally many predictions, sorted by deviation: |root mean square error - root mean variance|, over the
    latter.

    Args:
        deviation: [N, D] predicted.
        error: [N, D].
        bins: At most this many.
    """
    order = np.argsort(deviation, axis=0, kind="stable")
    variance = np.take_along_axis(deviation, order, 0) ** 2
    square = np.take_along_axis(error, order, 0) ** 2
    parts = np.array_split(np.arange(len(order)), min(bins, len(order)))
    predicted = np.sqrt(np.stack([variance[part].mean(0) for part in parts]))
    found = np.sqrt(np.stack([square[part].mean(0) for part in parts]))
    return float((np.abs(found - predicted) / np.maximum(predicted, 1e-12)).mean())


def spearman(first: Array, second: Array) -> float:
    """Rank correlation of two arrays [N, D] over N, mean over the dimensions; 0 where one is constant."""
    ranks = [_ranks(values) - 0.5 * (len(values) - 1) for values in (first, second)]
    product = (ranks[0] * ranks[1]).sum(0)
    scale = np.sqrt((ranks[0] ** 2).sum(0) * (ranks[1] ** 2).sum(0))
    return float(np.where(scale > 0.0, product / np.maximum(scale, 1e-12), 0.0).mean())


def _ranks(values: Array) -> Array:
    """Ranks [N, D] from 0, equal ones with their mean."""
    result = np.empty(values.shape)
    for d in range(values.shape[1]):
        _, inverse, counts = np.unique(values[:, d], return_inverse=True, return_counts=True)
        last = np.cumsum(counts) - 1.0
        result[:, d] = (last - 0.5 * (counts - 1))[inverse]
    return result
