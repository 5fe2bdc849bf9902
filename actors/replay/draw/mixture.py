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

Letters: B sequences, K components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.config import SelectorConfig
from actors.replay.draw.prioritized import STEP_BYTES, PrioritizedSelector, RecencySelector
from actors.replay.draw.queues import QueueSelector
from actors.replay.draw.selectors import Distribution, Selector, Starts, UniformSelector
from actors.replay.store.chunks import ChunkStore

_NO_STARTS: Starts = (np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Selection:
    """Starts of B sequences."""

    chunk: NDArray[np.int64]  # [B]
    offset: NDArray[np.int64]  # [B] within the chunk
    ratio: NDArray[np.float64]  # [B] probability in the whole replay, in multiples of the uniform one


def component_names(config: SelectorConfig) -> list[str]:
    """The components K: uniform, then those of positive fraction."""
    return ["uniform"] + [name for name, f in config.fractions.items() if f > 0 and name != "uniform"]


def selector_fractions(config: SelectorConfig) -> NDArray[np.float64]:
    """Fraction [K] of each component; the first is the uniform one, perhaps 0."""
    return np.array([config.fractions[name] for name in component_names(config)])


def selector_bytes(config: SelectorConfig) -> int:
    """Memory per stored step of the selectors."""
    return STEP_BYTES * sum(name in ("prioritized", "recency") for name in component_names(config))


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
    """The selectors of one store.

    Args:
        store: The store to select from; the mixture becomes its listener.
        config: The fractions and exponents.
    """

    def __init__(self, store: ChunkStore, config: SelectorConfig) -> None:
        self._fractions: list[float] = selector_fractions(config).tolist()
        self.prioritized = PrioritizedSelector(store, config.priority_exponent) if config.prioritized > 0 else None
        recency = RecencySelector(store, config.recency_exponent) if config.recency > 0 else None
        self._store = store
        self._uniform = UniformSelector(store)
        self._distributions: list[Distribution] = [
            d for d in (self._uniform, self.prioritized, recency) if d is not None
        ]
        self._fifo = QueueSelector(store) if config.fifo > 0 else None
        self._online = QueueSelector(store, overlapping=False) if config.online else None
        parts: dict[str, Selector | None] = {
            "uniform": self._uniform,
            "prioritized": self.prioritized,
            "recency": recency,
            "fifo": self._fifo,
            "online": self._online,
        }
        self._parts = {name: part for name, part in parts.items() if part is not None}
        store.listener = self

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
        ratio = np.full(batch_size - taken, shares[-1] if self._fifo is not None else 0.0)
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
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
            if own:
                part.load_arrays(own)
            else:
                for chunk in self._store.used_chunks():
                    part.inserted(chunk, 0, int(self._store.length[chunk]))

    def _masses(self, length: int) -> list[float]:
        masses = [distribution.mass(length) for distribution in self._distributions]
        return masses if self._fifo is None else [*masses, self._fifo.mass(length)]

    def _draw(self, rng: np.random.Generator, count: int, length: int, weights: list[float]) -> Starts:
        """Starts from components drawn in proportion to `weights` [K]."""
        counts = _share_out(rng, count, weights)
        parts = []
        if self._fifo is not None and counts[-1] > 0:
            parts.append(self._fifo.draw(rng, counts[-1], length))
            short = counts[-1] - len(parts[0][0])
            if short > 0:  # the queue ran empty: the others fill up
                counts = [a + b for a, b in zip(counts, _share_out(rng, short, weights[:-1]), strict=False)]
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
