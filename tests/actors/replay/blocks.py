"""Small blocks whose every step can be told apart, and a test of frequencies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.draw.kinds import MixtureConfig, PartConfig, PrioritizedConfig, RecencyConfig
from actors.replay.sharded import ShardedReplay
from learner.batch import SequenceBatch

STEP_BYTES = 4 + 4 + 3 + 8 + 8 + 8  # action, reward, flags, episode, tag, version


def tag_block(stream_id: int, first_step: int, steps: int, version: int = 0) -> Block:
    """A block whose `tag` is unique over streams and steps."""
    zeros = np.zeros(steps, np.bool_)
    data = {
        "action": np.zeros((steps, 1), np.float32),
        "reward": np.zeros(steps, np.float32),
        "is_first": zeros,
        "is_last": zeros,
        "is_terminal": zeros,
        "episode": np.zeros(steps, np.int64),
        "tag": stream_id * 1_000_000 + np.arange(first_step, first_step + steps),
    }
    return Block(stream_id, first_step, version, data)


def mixture(
    uniform: float = 1.0,
    prioritized: float = 0.0,
    recency: float = 0.0,
    fifo: float = 0.0,
    online: bool = False,
    priority_exponent: float = 0.6,
    weight_exponent: float = 0.4,
    recency_exponent: float = 1.0,
) -> MixtureConfig:
    """A mixture of these fractions."""
    fractions = {"uniform": uniform, "prioritized": prioritized, "recency": recency, "fifo": fifo}
    settings: list[PartConfig] = [
        PrioritizedConfig(exponent=priority_exponent, weight_exponent=weight_exponent),
        RecencyConfig(exponent=recency_exponent, weight_exponent=weight_exponent),
    ]
    used = {kind: fraction for kind, fraction in fractions.items() if fraction > 0}
    return MixtureConfig(fractions=used, parts={p.kind: p for p in settings if p.kind in used}, online=online)


Start = tuple[int, int]  # stream, step


def valid_starts(replay: ShardedReplay, length: int) -> list[Start]:
    """All starts of sequences of `length` stored steps."""
    spans = replay.streams().items()
    return [(stream, step) for stream, (start, end) in spans for step in range(start, end - length + 1)]


def starts_of(batch: SequenceBatch) -> list[Start]:
    """(stream, first step) of every sequence, after a look at its content."""
    tag = batch.data["tag"]
    assert (np.diff(tag, axis=1) == 1).all()
    assert (tag[:, 0] == batch.stream_id.astype(np.int64) * 1_000_000 + batch.first_step).all()
    return list(zip(batch.stream_id.tolist(), batch.first_step.tolist(), strict=True))


def chi_square(sample: Callable[[], SequenceBatch], expected: dict[Start, float], draws: int) -> float:
    """Pearson's statistic of `draws` starts in standard deviations above its mean; about N(0, 1) if all is well.

    Args:
        sample: Gives a batch.
        expected: Probability of every start; drawing one of probability 0 fails at once.
        draws: Starts to count.
    """
    counts = dict.fromkeys(expected, 0)
    drawn = 0
    while drawn < draws:
        for start in starts_of(sample()):
            assert expected[start] > 0, start
            counts[start] += 1
            drawn += 1
    mean = np.array([drawn * p for p in expected.values()])
    observed = np.array(list(counts.values()))
    used = mean > 0
    freedom = int(used.sum()) - 1
    statistic = float((((observed - mean) ** 2)[used] / mean[used]).sum())
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def normalised(weights: dict[Start, float]) -> dict[Start, float]:
    """The weights over their sum."""
    total = sum(weights.values())
    return {start: weight / total for start, weight in weights.items()}


def handles(replay: ShardedReplay, starts: list[Start]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Streams [B] and handles [B, 3] of stored steps."""
    batches = [replay.read(stream, step, 1) for stream, step in starts]
    return np.concatenate([b.stream_id for b in batches]), np.concatenate([b.handle for b in batches])
