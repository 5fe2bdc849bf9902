"""The replay as Ray actors: one actor per shard, and the learner's side of them.

Blocks come in as a header and one out-of-band buffer; the shard copies them and drops the buffer, so
nothing pins the object store. Batches go out as one object each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.metrics import Counter, Gauge

from actors.replay.config import ReplayConfig
from actors.replay.shard import ReplayShard
from actors.replay.sharded import concatenate, draw_shard, normalise_weights, shard_probabilities
from actors.replay.wire import decode_blocks
from learner.batch import SequenceBatch

MASS_REFRESH = 16  # batches between two looks at the masses of all shards
REPORT_SECONDS = 0.5  # least time between two updates of a shard's metrics


class ReplayShardActor:
    """One shard behind Ray calls.

    Calls run one after another, and every call may be repeated by Ray: an insert is stored once.

    Args:
        config: Size and sampling.
        seed: Seed of the shard's sampling.
        index: Place of the shard among its sisters.
    """

    def __init__(self, config: ReplayConfig, seed: int, index: int = 0) -> None:
        self._shard = ReplayShard(config, seed)
        self._index = index
        tags = {"shard": str(index)}
        self._gauges = {
            name: Gauge(f"worldfleet_replay_{name}", text, tag_keys=("shard",))
            for name, text in (("steps", "Steps stored"), ("bytes", "Bytes in use"), ("streams", "Streams stored"))
        }
        self._counters = {
            name: Counter(f"worldfleet_replay_{name}_steps", text, tag_keys=("shard",))
            for name, text in (
                ("inserted", "Steps inserted"),
                ("duplicate", "Steps of repeated blocks"),
                ("evicted", "Steps evicted"),
                ("sampled", "Steps sampled"),
            )
        }
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags(tags)
        self._reported = self._shard.stats()
        self._next_report = 0.0

    def ping(self) -> int:
        """The shard's index."""
        return self._index

    def insert(self, header: bytes, payload: NDArray[np.uint8]) -> int:
        """Store the blocks of one message; the steps stored, without those stored before.

        Raises:
            ValueError: The message is damaged, a stream has a gap, or the schema differs.
        """
        stored = sum(self._shard.insert(block) for block in decode_blocks(header, payload))
        self._report()
        return stored

    def sample(self, batch_size: int, length: int, totals: NDArray[np.float64] | None = None) -> SequenceBatch:
        """A batch; see `ReplayShard.sample`."""
        batch = self._shard.sample(batch_size, length, totals)
        self._report()
        return batch

    def read(self, stream_id: int, first_step: int, length: int) -> SequenceBatch:
        """Steps of one stream; see `ReplayShard.read`."""
        return self._shard.read(stream_id, first_step, length)

    def masses(self, length: int) -> NDArray[np.float64]:
        """The shard's weights [K] among its sisters; see `ReplayShard.masses`."""
        return self._shard.masses(length)

    def fractions(self) -> NDArray[np.float64]:
        """Fraction [K] of every component of the selector."""
        return self._shard.fractions

    def num_items(self, length: int) -> int:
        """Valid starts of sequences of `length` steps."""
        return self._shard.num_items(length)

    def num_steps(self) -> int:
        """Steps stored."""
        return self._shard.num_steps

    def streams(self) -> dict[int, tuple[int, int]]:
        """(first stored step, end) of every stored stream."""
        return self._shard.streams()

    def stats(self) -> dict[str, float]:
        """Sizes now and counts since the beginning."""
        return self._shard.stats()

    def state_dict(self) -> dict[str, Any]:
        """The whole state, data included."""
        return self._shard.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state; see `ReplayShard.load_state_dict`."""
        self._shard.load_state_dict(state)
        self._reported = self._shard.stats()

    def _report(self) -> None:
        now = monotonic()
        if now < self._next_report:
            return
        self._next_report = now + REPORT_SECONDS
        stats = self._shard.stats()
        for name, gauge in self._gauges.items():
            gauge.set(stats[name])
        for name, counter in self._counters.items():
            delta = stats[f"{name}_steps"] - self._reported[f"{name}_steps"]
            if delta > 0:
                counter.inc(delta)
        self._reported = stats


class RemoteBatches:
    """Endless batches from shard actors, asked for ahead of time.

    Every batch comes from one shard drawn in proportion to its mass, or mixes shards. The masses are
    looked up again every few batches, while earlier batches are on their way. The arrays are copied out
    of the object store, so they are writable and pin nothing.

    Args:
        shards: Handles of the shard actors.
        batch_size: Sequences per batch, B.
        length: Steps per sequence, T.
        seed: Seed of the choice of shards.
        in_flight: Batches asked for ahead.
        mixed: Whether a batch mixes shards.
    """

    def __init__(
        self, shards: Sequence[Any], batch_size: int, length: int, seed: int, in_flight: int = 2, mixed: bool = False
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {in_flight}")
        self._shards = list(shards)
        self._batch_size, self._length = batch_size, length
        self._rng = np.random.default_rng(seed)
        self._in_flight, self._mixed = in_flight, mixed
        self._tickets: deque[list[Any]] = deque()
        self._masses: NDArray[np.float64] | None = None
        self._fractions: NDArray[np.float64] | None = None
        self._mass_refs: list[Any] = []
        self._asked = 0

    def __iter__(self) -> Iterator[SequenceBatch]:
        return self

    def __next__(self) -> SequenceBatch:
        """The next batch.

        Raises:
            ValueError: No shard holds a sequence of the asked length.
        """
        while len(self._tickets) < self._in_flight:
            self._tickets.append(self._ask())
        ticket = self._tickets.popleft()
        self._tickets.append(self._ask())
        return normalise_weights(concatenate(ray.get(ticket)))  # copies

    def _ask(self) -> list[Any]:
        masses = self._current_masses()
        if self._fractions is None:
            self._fractions = ray.get(self._shards[0].fractions.remote())
        totals = masses.sum(axis=0)
        if not self._mixed:
            shard = self._shards[draw_shard(self._rng, masses, self._fractions)]
            return [shard.sample.remote(self._batch_size, self._length, totals)]
        probabilities = shard_probabilities(masses, self._fractions)
        counts = self._rng.multinomial(self._batch_size, probabilities / probabilities.sum())
        return [s.sample.remote(int(n), self._length, totals) for s, n in zip(self._shards, counts, strict=True) if n]

    def _current_masses(self) -> NDArray[np.float64]:
        if self._masses is None or not self._masses.any():
            self._masses = np.array(ray.get([s.masses.remote(self._length) for s in self._shards]), np.float64)
        elif self._mass_refs and len(ray.wait(self._mass_refs, num_returns=len(self._mass_refs), timeout=0)[1]) == 0:
            self._masses = np.array(ray.get(self._mass_refs), np.float64)
            self._mass_refs = []
        self._asked += 1
        if self._asked % MASS_REFRESH == 0 and not self._mass_refs:
            self._mass_refs = [s.masses.remote(self._length) for s in self._shards]
        return self._masses
