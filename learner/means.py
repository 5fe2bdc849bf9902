"""Sums and means of records of metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

MetricSums = Mapping[str, tuple[float, int]]
"""Metric -> the sum of its values, and how many they are."""


def sum_metrics(collected: Iterable[Mapping[str, float]]) -> MetricSums:
    """Sum and count of every metric over the records that have it."""
    sums: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, int] = defaultdict(int)
    for metrics in collected:
        for name, value in metrics.items():
            sums[name] += value
            counts[name] += 1
    return {name: (total, counts[name]) for name, total in sums.items()}


def mean_metrics(collected: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric over the records that have it."""
    return {name: total / count for name, (total, count) in sum_metrics(collected).items()}
