"""Which shards the next batch comes from, and when to ask a shard how much it has.

Letters: B sequences, K components of the selector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.sharded import draw_shard, shard_probabilities

MASS_REFRESH = 16
"""Batches between two looks at the mass of a shard, at least; with more shards, as many as there are shards."""


@dataclass(frozen=True)
class ShardReport:
    """What a shard says of itself when it is probed."""

    masses: NDArray[np.float64]  # [K]
    fractions: NDArray[np.float64]  # [K] of the selector's components, equal in all shards
    num_items: float  # valid starts
    node: str  # where it runs
    schema: list[list[Any]] | None  # `Schema.as_lists`, None while it is empty


class ShardMasses:
    """The masses of all shards as last reported, and which shards are in the draw.

    Args:
        num_shards: Shards.
    """

    def __init__(self, num_shards: int) -> None:
        if num_shards < 1:
            raise ValueError(f"a replay needs at least one shard, got {num_shards}")
        self.present = np.zeros(num_shards, np.bool_)
        self._masses = np.zeros((num_shards, 1))
        self._items = np.zeros(num_shards)
        self._fractions = np.ones(1)

    def report(self, shard: int, report: ShardReport) -> bool:
        """Book a report; whether it brings the shard into the draw."""
        joins = not self.present[shard]
        if self._masses.shape[1] != len(report.masses):
            self._masses = np.zeros((len(self.present), len(report.masses)))
        self._fractions = report.fractions
        self._masses[shard] = report.masses
        self._items[shard] = report.num_items
        self.present[shard] = True
        return joins

    def leave(self, shard: int) -> bool:
        """Take a shard out of the draw until its next report; whether it was in."""
        was_present = bool(self.present[shard])
        self.present[shard] = False
        self._masses[shard] = 0.0
        self._items[shard] = 0.0
        return was_present

    @property
    def drawable(self) -> bool:
        """Whether any shard can be drawn."""
        return bool(self._masses.any())

    def drawable_without(self, shard: int) -> bool:
        """Whether any other shard can be drawn."""
        return bool(np.delete(self._masses, shard, axis=0).any())

    @property
    def totals(self) -> NDArray[np.float64]:
        """Masses [K] over all shards in the draw."""
        return np.asarray(self._masses.sum(axis=0))

    @property
    def num_items(self) -> float:
        """Valid starts over all shards in the draw."""
        return float(self._items.sum())

    def draw(self, rng: np.random.Generator) -> int:
        """The shard of one batch.

        Raises:
            ValueError: No shard has any mass.
        """
        return draw_shard(rng, self._masses, self._fractions)

    def split(self, rng: np.random.Generator, batch_size: int) -> list[tuple[int, int, int]]:
        """(shard, first row, end row) of the parts of a batch that draws the shard of every sequence anew.

        Raises:
            ValueError: No shard has any mass.
        """
        probabilities = shard_probabilities(self._masses, self._fractions)
        counts = rng.multinomial(batch_size, probabilities / probabilities.sum())
        ends = np.cumsum(counts)
        return [(shard, int(end - n), int(end)) for shard, (n, end) in enumerate(zip(counts, ends, strict=True)) if n]

    def describe(self) -> str:
        """The state of every shard in words."""
        words = ("does not answer", "is empty", "has data")
        state = np.where(self.present, 1 + self._masses.any(axis=1), 0)
        return ", ".join(f"shard {shard} {words[int(s)]}" for shard, s in enumerate(state))


class ProbeSchedule:
    """When to probe which shard: shards in the draw now and then, the others with growing pauses.

    Args:
        num_shards: Shards.
        first_pause: Seconds before a shard that has just failed or said that it is empty is probed again.
        longest_pause: Seconds the pause doubles up to.
    """

    def __init__(self, num_shards: int, first_pause: float = 0.05, longest_pause: float = 2.0) -> None:
        self._first, self._longest = first_pause, longest_pause
        self._due = np.zeros(num_shards)  # clock time
        self._pause = np.full(num_shards, first_pause)
        self._batches = 0

    def asked_batch(self) -> None:
        """Count a batch; it makes at most one shard due, so that a batch costs the same with many shards."""
        num_shards = len(self._due)
        period = max(MASS_REFRESH, num_shards)
        shard, rest = divmod(self._batches % period, period // num_shards)
        self._batches += 1
        if not rest and shard < num_shards and np.isinf(self._due[shard]):
            self._due[shard] = 0.0

    def answered(self, shard: int, has_data: bool, now: float) -> None:
        """A report has come."""
        if has_data:
            self._pause[shard] = self._first
            self._due[shard] = np.inf  # until enough batches have been asked for
        else:
            self.failed(shard, now)

    def failed(self, shard: int, now: float) -> None:
        """The shard did not answer, or is of no use at present."""
        self._due[shard] = now + self._pause[shard]
        self._pause[shard] = min(2 * self._pause[shard], self._longest)

    def due(self, now: float) -> list[int]:
        """Shards to probe now."""
        return [int(shard) for shard in np.flatnonzero(self._due <= now)]

    def wait(self, now: float) -> float:
        """Seconds until a shard is due, at most the longest pause."""
        return float(np.clip(self._due.min() - now, 0.0, self._longest))
