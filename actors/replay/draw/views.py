"""The views of a store: named selectors that share its steps, each with queues and priorities of its own.

A priority belongs to a sequence, whoever sets it: it goes into every component of every view that takes priorities.

Letters: B sequences.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.replay.config import TRAIN
from actors.replay.draw.kinds import SelectorConfig
from actors.replay.draw.mixture import Mixture
from actors.replay.draw.selectors import Starts
from actors.replay.store.chunks import ChunkStore


class ViewGenerators:
    """A random generator for each view, so that none changes what another draws.

    Args:
        seed: Seed of `train`; the others' derive from it and their names.
        names: The views.
    """

    def __init__(self, seed: int, names: Iterable[str]) -> None:
        self._generators = {
            name: np.random.default_rng(seed if name == TRAIN else [seed, zlib.crc32(name.encode())]) for name in names
        }

    def __getitem__(self, name: str) -> np.random.Generator:
        return self._generators[name]

    def state_books(self) -> dict[str, Any]:
        """The states, for a manifest; that of `train` is where it was before there were views."""
        states = {name: json.dumps(generator.bit_generator.state) for name, generator in self._generators.items()}
        return {"rng": states.pop(TRAIN), "view_rngs": states}

    def load_books(self, books: Mapping[str, Any]) -> None:
        """Take over the `state_books` of a manifest; a view that it knows nothing of begins anew."""
        states = {TRAIN: books["rng"], **books.get("view_rngs", {})}
        for name in states.keys() & self._generators.keys():
            self._generators[name].bit_generator.state = json.loads(states[name])


class Views:
    """The mixtures of a store by name.

    Args:
        store: The store to select from.
        selectors: How each view draws.
    """

    def __init__(self, store: ChunkStore, selectors: Mapping[str, SelectorConfig]) -> None:
        self._mixtures = {name: Mixture(store, config) for name, config in selectors.items()}

    def __getitem__(self, name: str) -> Mixture:
        return self._mixtures[name]

    def check_priorities(self, priority: NDArray[np.float64]) -> None:
        """Raise a ValueError if some of these priorities [B] cannot be set."""
        for mixture in self._mixtures.values():
            mixture.check_priorities(priority)

    def update(self, starts: Starts, priority: NDArray[np.float64]) -> None:
        """Set the priorities [B], which were checked, of stored starts in all views."""
        for mixture in self._mixtures.values():
            mixture.update(starts, priority)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The memory of all views, for a manifest."""
        return {
            f"{_prefix(name)}{key}": array
            for name, mixture in self._mixtures.items()
            for key, array in mixture.state_arrays().items()
        }

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over the `state_arrays` of a manifest; a view that it knows nothing of takes all steps for new ones."""
        for name, mixture in self._mixtures.items():
            mixture.load_arrays(_own(arrays, name))

    def adopt(
        self, arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], source_rows: NDArray[np.int64]
    ) -> None:
        """Take priorities over from the manifest of another store: its steps `source_rows` are in `rows` here."""
        for name, mixture in self._mixtures.items():
            mixture.adopt(_own(arrays, name), rows, source_rows)


def _prefix(name: str) -> str:
    """Of a view's arrays in a manifest; those of `train` are where they were before there were views."""
    return "selector/" if name == TRAIN else f"view/{name}/"


def _own(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    prefix = _prefix(name)
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
