"""A mixture of selectors, and its share of a replay of several stores.

Component k has a fraction f_k of the sequences. With m_k(s) the mass of component k in shard s and M_k its
sum over the shards, shard s is drawn with probability sum_k f_k m_k(s) / M_k, and inside it component k
with probability proportional to f_k m_k(s) / M_k. A start i of density w_k(i) is then drawn with the
probability sum_k f_k w_k(i) / M_k of the mixture over the whole replay, whichever shard holds it.

An online queue comes before the mixture: it takes every new sequence once, and the mixture fills the rest.
Queues come to every start equally often, so that the probability of what they take is that of the uniform
distribution.

Component 0 is always the uniform distribution, even at fraction 0: its mass counts the valid starts, and it
steps in where no other component has any mass. A component without mass gives its fraction to the others.
A selector of one kind is a mixture of it alone.

Letters: B sequences, K components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.draw.kinds import KINDS, MixtureConfig, SelectorConfig, parts_of
from actors.replay.draw.queues import QueueSelector
from actors.replay.draw.selectors import Distribution, PrioritySelector, Selector, Starts
from actors.replay.store.chunks import ChunkStore

_NO_STARTS: Starts = (np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Selection:
    """Starts of B sequences."""

    chunk: NDArray[np.int64]  # [B]
    offset: NDArray[np.int64]  # [B] within the chunk
    ratio: NDArray[np.float64]  # [B] probability in the whole replay, in multiples of the uniform one


def selector_fractions(config: SelectorConfig) -> NDArray[np.float64]:
    """Fraction [K] of each component; the first is the uniform one, perhaps 0."""
    return np.array([part.fraction for part in parts_of(config)])


def effective_fractions(totals: Sequence[float], fractions: Sequence[float]) -> list[float]:
    """The fractions [K] in force at these masses [K] over the whole replay.

    They sum to 1, or to 0 where no start is valid at all.
    """
    shares = [fraction if total > 0 else 0.0 for fraction, total in zip(fractions, totals, strict=True)]
    whole = sum(shares)
    if whole > 0:
        return [share / whole for share in shares]
    return [1.0 if totals[0] > 0 else 0.0] + [0.0] * (len(shares) - 1)


class Mixture:
    """The selectors of one view of a store.

    Args:
        store: The store to select from; the mixture becomes one of its listeners.
        config: The components, their fractions and settings.
    """

    def __init__(self, store: ChunkStore, config: SelectorConfig) -> None:
        parts = parts_of(config)
        components: dict[str, Any] = {part.kind: KINDS[part.kind].make(store, part.settings) for part in parts}
        self.weight_exponent = float(config.weight_exponent)
        self._fractions = [part.fraction for part in parts]
        self._store = store
        self._uniform: Distribution = components["uniform"]
        self._distributions: list[Distribution] = [c for kind, c in components.items() if not KINDS[kind].is_queue]
        self._queues: list[Selector] = [c for kind, c in components.items() if KINDS[kind].is_queue]
        self._prioritized: dict[str, PrioritySelector] = {
            kind: c for kind, c in components.items() if KINDS[kind].takes_priorities
        }
        online = isinstance(config, MixtureConfig) and config.online
        self._online = QueueSelector(store, overlapping=False) if online else None
        self._parts: dict[str, Selector] = components if self._online is None else components | {"online": self._online}
        store.listeners.append(self)

    def masses(self, length: int) -> NDArray[np.float64]:
        """Mass [K] of every component for sequences of `length` steps."""
        return np.array(self._masses(length))

    def num_items(self, length: int) -> int:
        """Valid starts of sequences of `length` steps."""
        return int(self._uniform.mass(length))

    def sample(
        self,
        rng: np.random.Generator,
        batch_size: int,
        length: int,
        totals: NDArray[np.float64] | None = None,
        num_items: float | None = None,
    ) -> Selection:
        """Draw starts; some start must be valid.

        Args:
            rng: Source of randomness.
            batch_size: B.
            length: Steps of a sequence.
            totals: Masses [K] over the whole replay, None if this store is all of it.
            num_items: Valid starts over the whole replay, None for the uniform component's total.
        """
        if len(self._parts) == 1:
            return Selection(*self._uniform.draw(rng, batch_size, length), np.ones(batch_size))
        masses = self._masses(length)
        assert masses[0] > 0
        # The caller's totals may be old: none is less than what is here.
        whole = masses if totals is None else [max(pair) for pair in zip(totals.tolist(), masses, strict=True)]
        shares = effective_fractions(whole, self._fractions)
        if not any(share > 0 and mass > 0 for share, mass in zip(shares, masses, strict=True)):
            shares = effective_fractions(masses, self._fractions)
        scale = [share / total if share > 0 else 0.0 for share, total in zip(shares, whole, strict=True)]
        online = _NO_STARTS if self._online is None else self._online.draw(rng, batch_size, length)
        taken = len(online[0])
        weights = [factor * mass for factor, mass in zip(scale, masses, strict=True)]
        drawn = self._draw(rng, batch_size - taken, length, weights)
        ratio = np.full(batch_size - taken, float(sum(shares[len(self._distributions) :])))
        items = whole[0] if num_items is None else num_items
        for distribution, factor in zip(self._distributions, scale, strict=False):
            if factor > 0:
                ratio += factor * items * distribution.density(drawn)
        if taken == 0:
            return Selection(*drawn, ratio)
        # The queue comes to every sequence once.
        chunk, offset = (np.concatenate(parts) for parts in zip(online, drawn, strict=True))
        return Selection(chunk, offset, np.concatenate([np.ones(taken), ratio]))

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        for part in self._parts.values():
            part.inserted(chunk, offset, count)

    def evicted(self, chunk: int) -> None:
        for part in self._parts.values():
            part.evicted(chunk)

    def check_priorities(self, priority: NDArray[np.float64]) -> None:
        """Raise a ValueError if some of these priorities [B] cannot be set."""
        for part in self._prioritized.values():
            part.check(priority)

    def update(self, starts: Starts, priority: NDArray[np.float64]) -> None:
        """Set the priorities [B] of stored starts in every component that takes them."""
        for part in self._prioritized.values():
            part.update(starts, priority)

    def adopt(self, state: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], source_rows: NDArray[np.int64]) -> None:
        """Take priorities over from another store's `state_arrays`: its steps `source_rows` are in `rows` here."""
        for kind, part in self._prioritized.items():
            if own := _below(state, kind):
                part.adopt(own, rows, source_rows)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The selectors' memory beyond the store's; arrays of per-step values follow `ChunkStore.stored_rows`."""
        return {
            f"{name}/{key}": array for name, part in self._parts.items() for key, array in part.state_arrays().items()
        }

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over a `state_arrays`; the store must hold the steps it held then.

        A selector that the state knows nothing of takes the stored steps for new ones.
        """
        for name, part in self._parts.items():
            if own := _below(state, name):
                part.load_arrays(own)
            else:
                for chunk in self._store.used_chunks():
                    part.inserted(chunk, 0, int(self._store.length[chunk]))

    def _masses(self, length: int) -> list[float]:
        return [component.mass(length) for component in (*self._distributions, *self._queues)]

    def _draw(self, rng: np.random.Generator, count: int, length: int, weights: list[float]) -> Starts:
        """Starts from components drawn in proportion to `weights` [K]."""
        counts, first_queue = _share_out(rng, count, weights), len(self._distributions)
        parts = [
            queue.draw(rng, n, length) for queue, n in zip(self._queues, counts[first_queue:], strict=True) if n > 0
        ]
        short = sum(counts[first_queue:]) - sum(len(chunk) for chunk, _ in parts)
        if short > 0:  # a queue ran empty: the distributions fill up
            more = _share_out(rng, short, weights[:first_queue])
            counts = [a + b for a, b in zip(counts, more, strict=False)]
        for distribution, n in zip(self._distributions, counts, strict=False):
            if n > 0:
                parts.append(distribution.draw(rng, n, length))
        if len(parts) == 1:
            return parts[0]
        chunks, offsets = zip(_NO_STARTS, *parts, strict=True)
        return np.concatenate(chunks), np.concatenate(offsets)


def _share_out(rng: np.random.Generator, count: int, weights: list[float]) -> list[int]:
    """How many [K] of `count` draws fall on each component; without any weight all fall on the uniform one."""
    total = sum(weights)
    largest = max(weights)
    if largest < total:
        counts: list[int] = rng.multinomial(count, [weight / total for weight in weights]).tolist()
        return counts
    return [count if k == weights.index(largest) else 0 for k in range(len(weights))]


def _below(state: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
