"""A mixture of selectors, and its share of a replay of several stores.

Component k has a fraction f_k of the sequences. With m_k(s) the mass of component k in shard s and M_k its
sum over the shards, shard s is drawn with probability sum_k f_k m_k(s) / M_k, and inside it component k
with probability proportional to f_k m_k(s) / M_k. A start i of density w_k(i) is then drawn with the
probability sum_k f_k w_k(i) / M_k of the mixture over the whole replay, whichever shard holds it.

Component 0 is always the uniform distribution, even at fraction 0: its mass counts the valid starts, and it
steps in where no other component has any mass. A component without mass gives its fraction to the others.

Letters: B sequences, K components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.chunks import ChunkStore
from actors.replay.config import SelectorConfig
from actors.replay.selectors import Selector, Starts, UniformSelector


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


def effective_fractions(totals: NDArray[np.float64], fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fractions [K] in force at these masses [K] over the whole replay.

    They sum to 1, or to 0 where no start is valid at all.
    """
    shares = np.where(totals > 0, fractions, 0.0)
    total = shares.sum()
    if total > 0:
        return np.asarray(shares / total)
    shares[0] = 1.0 if totals[0] > 0 else 0.0
    return shares


class Mixture:
    """The selectors of one store.

    Args:
        store: The store to select from; the mixture becomes its listener.
        config: The fractions and exponents.
    """

    def __init__(self, store: ChunkStore, config: SelectorConfig) -> None:
        self.fractions = selector_fractions(config)
        self._selectors: dict[str, Selector] = {"uniform": UniformSelector(store)}
        store.listener = self

    def masses(self, length: int) -> NDArray[np.float64]:
        """Mass [K] of every component for sequences of `length` steps."""
        return np.array([selector.mass(length) for selector in self._selectors.values()])

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
        masses = self.masses(length)
        assert masses[0] > 0
        totals = masses if totals is None else np.maximum(totals, masses)  # the caller's may be old
        shares = effective_fractions(totals, self.fractions)
        if not (shares * masses).any():
            shares = effective_fractions(masses, self.fractions)
        scale = np.divide(shares, totals, out=np.zeros_like(shares), where=totals > 0)
        chunk, offset = self._draw(rng, batch_size, length, scale * masses)
        scale = scale * (totals[0] if num_items is None else num_items)
        ratio = np.zeros(batch_size)
        for selector, factor in zip(self._selectors.values(), scale, strict=True):
            if factor > 0:
                ratio += factor * selector.density((chunk, offset), length)
        return Selection(chunk, offset, ratio)

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        for selector in self._selectors.values():
            selector.inserted(chunk, offset, count)

    def evicted(self, chunk: int) -> None:
        for selector in self._selectors.values():
            selector.evicted(chunk)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The selectors' memory beyond the store's."""
        return {
            f"{name}/{key}": array
            for name, selector in self._selectors.items()
            for key, array in selector.state_arrays().items()
        }

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over a `state_arrays`; the store must hold the steps it held then."""
        for name, selector in self._selectors.items():
            prefix = f"{name}/"
            selector.load_arrays({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _draw(self, rng: np.random.Generator, batch_size: int, length: int, weights: NDArray[np.float64]) -> Starts:
        """Starts from components drawn in proportion to `weights` [K]."""
        selectors = list(self._selectors.values())
        if np.count_nonzero(weights) == 1:
            return selectors[int(weights.argmax())].draw(rng, batch_size, length)
        counts = rng.multinomial(batch_size, weights / weights.sum())
        parts = [s.draw(rng, int(n), length) for s, n in zip(selectors, counts, strict=True) if n]
        return np.concatenate([chunk for chunk, _ in parts]), np.concatenate([offset for _, offset in parts])
