"""The metrics that an environment declares, from steps to episodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from envs.specs import MetricKind, StepBatch

SUCCESS = "is_success"
"""The metric that says whether an episode reached its goal: its mean is reported as `success_rate`."""


def reported_name(metric: str) -> str:
    """What the mean over episodes of a metric is called in figures of a run."""
    return "success_rate" if metric == SUCCESS else metric


class EpisodeMetrics:
    """Adds up metrics over the episodes of N environments.

    As with rewards, the steps after an episode's first one count.

    Args:
        metrics: `EnvSpec.metrics`.
        num_envs: Environments, N.
    """

    def __init__(self, metrics: Mapping[str, MetricKind], num_envs: int) -> None:
        self._metrics = metrics
        self.sums: dict[str, NDArray[np.float64]] = {
            name: np.zeros(num_envs) for name, kind in metrics.items() if kind != "last"
        }

    def add(self, step: StepBatch, envs: NDArray[np.int64] | slice = slice(None)) -> None:
        """Count a step of the environments `envs`; a first step starts again."""
        for name, sums in self.sums.items():
            sums[envs] = np.where(step.is_first, 0.0, sums[envs] + step.info[name])

    def episode(self, env: int, step: StepBatch, row: int, length: int) -> dict[str, float]:
        """The metrics of an episode of `length` actions that environment `env` ends with row `row` of `step`."""
        ended: dict[str, float] = {}
        for name, kind in self._metrics.items():
            if kind == "last":
                ended[name] = float(step.info[name][row])
            else:
                ended[name] = float(self.sums[name][env]) / (max(length, 1) if kind == "mean" else 1)
        return ended
