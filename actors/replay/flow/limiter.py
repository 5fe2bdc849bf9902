"""Keeps sampling and inserting in step.

The limiter bounds the drift

    inserted * samples_per_insert - sampled

to [offset - error_buffer, offset + error_buffer] with offset = samples_per_insert * min_size, the rule of
Reverb's SampleToInsertRatio (Cassirer et al. 2021, "Reverb: a framework for experience replay", section 3.4).
An insert counts steps and a sample counts trained steps (B * T), so the ratio is the replay ratio.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from actors.replay.config import LimiterConfig

logger = logging.getLogger(__name__)

STUCK_SECONDS = 10.0
"""How long nothing may move before the limiter says why."""

UNLIMITED = 1 << 62
"""The allowance where nothing limits."""


class SampleLimiter:
    """Counts inserted and sampled steps and says who has to wait.

    The limiter only advises: `inserted` and `sampled` also count what was not asked for, so that work in
    flight when a limit is reached is never dropped. Callers that work ahead take an allowance as a lease
    and report it when it is used.

    Args:
        config: The limits.
        insert_quantum: Steps that are inserted at once.
        sample_quantum: Trained steps of one batch, B * T.
        clock: Seconds, monotonic.

    Raises:
        ValueError: The interval is so narrow that both sides could wait for ever.
    """

    def __init__(
        self,
        config: LimiterConfig,
        insert_quantum: int = 1,
        sample_quantum: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.num_inserted = 0
        self.num_sampled = 0
        self.blocked = {"insert": 0.0, "sample": 0.0}  # seconds
        self._clock = clock
        self._watched = clock()
        self._stuck_since: float | None = None
        self._ratio = config.samples_per_insert
        if self._ratio is None:
            return
        # Inserting stops above max - ratio * insert_quantum, sampling below min + sample_quantum: the first
        # must not lie below the second, or between the two nobody may move.
        narrowest = (self._ratio * insert_quantum + sample_quantum) / 2
        buffer = 2 * narrowest if config.error_buffer is None else config.error_buffer
        if buffer < narrowest:
            raise ValueError(
                f"error_buffer {buffer} can deadlock: inserts of {insert_quantum} steps at samples_per_insert "
                f"{self._ratio} and batches of {sample_quantum} steps need at least {narrowest}"
            )
        offset = self._ratio * config.min_size
        self._min_diff, self._max_diff = offset - buffer, offset + buffer

    @property
    def bounded(self) -> bool:
        """Whether there is a ratio of trained to inserted steps."""
        return self._ratio is not None

    def can_insert(self, num_steps: int) -> bool:
        """Whether `num_steps` more may be inserted now."""
        if self._ratio is None or self.num_inserted + num_steps <= self.config.min_size:
            return True
        return (self.num_inserted + num_steps) * self._ratio - self.num_sampled <= self._max_diff

    def can_sample(self, num_steps: int) -> bool:
        """Whether a batch of `num_steps` trained steps may be drawn now."""
        if self.num_inserted < self.config.min_size:
            return False
        return self._ratio is None or self.num_inserted * self._ratio - self.num_sampled - num_steps >= self._min_diff

    def inserted(self, num_steps: int) -> None:
        """Count inserted steps."""
        assert num_steps >= 0
        self.num_inserted += num_steps

    def release(self, num_steps: int) -> None:
        """Give back leased inserts that will never come: their actor died."""
        assert 0 <= num_steps <= self.num_inserted
        self.num_inserted -= num_steps

    def sampled(self, num_steps: int) -> None:
        """Count trained steps."""
        assert num_steps >= 0
        self.num_sampled += num_steps

    def recovered(self, num_inserted: int) -> None:
        """Set the inserted steps to what shards found when they started: leases that never came are void."""
        self.num_inserted = num_inserted

    def redo(self, num_sampled: int) -> None:
        """Set the trained steps to those of the checkpoint a learner goes back to: the later ones come again."""
        self.num_sampled = min(self.num_sampled, num_sampled)

    def watch(self, insert: int, sample: int, idle: bool) -> None:
        """Account the time since the last call to whoever was blocked, and warn if nothing moves at all.

        Args:
            insert: Steps of the next insert.
            sample: Trained steps of the next sample.
            idle: Whether nothing is under way that could unblock anyone.
        """
        now, before = self._clock(), self._watched
        self._watched = now
        may_insert, may_sample = self.can_insert(insert), self.can_sample(sample)
        if not may_insert:
            self.blocked["insert"] += now - before
        if not may_sample:
            self.blocked["sample"] += now - before
        if may_insert or may_sample or not idle:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > STUCK_SECONDS:
            logger.warning(
                "nothing has moved for %.0f s: %s", now - self._stuck_since, self.why_blocked(insert, sample)
            )
            self._stuck_since = now

    def metrics(self) -> dict[str, float]:
        """Counters and blocked seconds."""
        return {
            "limiter/inserted": float(self.num_inserted),
            "limiter/sampled": float(self.num_sampled),
            "timing/insert_blocked_seconds": self.blocked["insert"],
            "timing/sample_blocked_seconds": self.blocked["sample"],
        }

    def insert_allowance(self) -> int:
        """The most steps `can_insert` allows now."""
        if self._ratio is None:
            return UNLIMITED
        by_ratio = math.floor((self._max_diff + self.num_sampled) / self._ratio) - self.num_inserted
        return max(0, by_ratio, self.config.min_size - self.num_inserted)

    def sample_allowance(self) -> int:
        """The most trained steps `can_sample` allows now."""
        if self.num_inserted < self.config.min_size:
            return 0
        if self._ratio is None:
            return UNLIMITED
        return max(0, math.floor(self.num_inserted * self._ratio - self._min_diff) - self.num_sampled)

    def why_blocked(self, insert: int = 1, sample: int = 1) -> str:
        """Who waits for what, given the next insert and batch in steps; empty if nobody waits."""
        reasons = []
        if not self.can_insert(insert):
            reasons.append(f"inserting {insert} steps waits for training: {self._drift()}, at most {self._max_diff:g}")
        if self.num_inserted < self.config.min_size:
            reasons.append(f"sampling waits for data: {self.num_inserted} of {self.config.min_size} steps are inserted")
        elif not self.can_sample(sample):
            reasons.append(f"sampling {sample} steps waits for data: {self._drift()}, at least {self._min_diff:g}")
        return "; ".join(reasons)

    def state_dict(self) -> dict[str, int]:
        """The counters; limits always come from the configuration."""
        return {"num_inserted": self.num_inserted, "num_sampled": self.num_sampled}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over the counters of `state_dict`."""
        self.num_inserted, self.num_sampled = int(state["num_inserted"]), int(state["num_sampled"])

    def _drift(self) -> str:
        assert self._ratio is not None
        drift = self.num_inserted * self._ratio - self.num_sampled
        return f"{self.num_inserted} inserted x {self._ratio:g} - {self.num_sampled} trained = {drift:g}"
