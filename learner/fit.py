"""Fitting an algorithm to recorded streams offline."""

from __future__ import annotations

import logging

from learner.algorithms.base import Algorithm
from learner.dataset import StreamDataset
from learner.learner import Learner
from learner.learner_config import LearnerConfig

logger = logging.getLogger(__name__)


def fit(
    algorithm: Algorithm, dataset: StreamDataset, config: LearnerConfig, updates: int, seed: int, log_every: int = 1000
) -> list[dict[str, float]]:
    """Update `algorithm` from a fixed dataset by the learner that also serves online training.

    Args:
        algorithm: What to fit.
        dataset: Recorded streams; held-out episodes are split off by the algorithm itself.
        config: Batch shape and threads.
        updates: Least number of updates; fitting ends sooner once the algorithm reports `stopped`.
        seed: Seed of the sampling.
        log_every: Learner steps between two kept records.

    Returns:
        Metrics every `log_every` learner steps and of the last one.
    """
    learner = Learner(algorithm, dataset.batches(config.batch_size, config.sequence_length, seed), config, seed)
    records: list[dict[str, float]] = []
    step = 0
    while True:
        metrics = learner.step()
        done = learner.updates >= updates or metrics.get("stopped", 0.0) > 0
        if done or step % log_every == 0:
            records.append(metrics)
            logger.info("update %d: loss %.4g", learner.updates, metrics.get("loss", float("nan")))
        if done:
            return records
        step += 1
