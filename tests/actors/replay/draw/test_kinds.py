"""The table of selectors, and a selector that comes in by it alone (docs/extending/selector.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.replay import config as replay_config
from actors.replay.config import ReplayConfig
from actors.replay.draw import kinds
from actors.replay.draw.kinds import MixtureConfig, PrioritizedConfig, SelectorKind, UniformConfig, parts_of
from actors.replay.draw.selectors import Starts
from actors.replay.sharded import ShardedReplay
from actors.replay.store.chunks import ChunkStore
from cluster.config import resolve, to_yaml
from envs import numbers
from tests.actors.replay.blocks import chi_square, normalised, starts_of, tag_block, valid_starts


@dataclass(frozen=True)
class EvenConfig:
    """Starts at even steps only, each `bonus` times as often as if all were drawn alike."""

    kind: Literal["even"] = "even"
    bonus: float = 1.0
    weight_exponent: float = 0.0


class EvenSelector:
    """Density `bonus` at even steps, 0 at the others."""

    def __init__(self, store: ChunkStore, bonus: float) -> None:
        self._store, self._bonus = store, bonus

    def mass(self, length: int) -> float:
        return self._bonus * len(self._even(length)[0])

    def draw(self, rng: np.random.Generator, count: int, length: int) -> Starts:
        chunk, offset = self._even(length)
        index = rng.integers(0, len(chunk), count)
        return chunk[index], offset[index]

    def density(self, starts: Starts) -> NDArray[np.float64]:
        return np.where((self._store.start[starts[0]] + starts[1]) % 2, 0.0, self._bonus)

    def inserted(self, chunk: int, offset: int, count: int) -> None:
        """Nothing is remembered."""

    def evicted(self, chunk: int) -> None:
        """Nothing is remembered."""

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def load_arrays(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Nothing is remembered."""

    def _even(self, length: int) -> Starts:
        counts = self._store.starts(length)
        chunk = np.repeat(np.arange(len(counts)), counts)
        offset = np.concatenate([np.arange(count) for count in counts])
        even = (self._store.start[chunk] + offset) % 2 == 0
        return chunk[even], offset[even]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a change of actors/replay/draw/kinds.py would do: a record, and the configuration in the union."""
    record = SelectorKind(EvenConfig, lambda store, config: EvenSelector(store, config.bonus))
    monkeypatch.setitem(kinds.KINDS, "even", record)
    monkeypatch.setattr(kinds, "PartConfig", kinds.PartConfig | EvenConfig)
    monkeypatch.setattr(replay_config, "SelectorConfig", kinds.SelectorConfig | EvenConfig)
    monkeypatch.setattr(numbers, "_field_types", numbers._field_types.__wrapped__)


@pytest.mark.usefixtures("toy")
def test_a_toy_selector_comes_in_by_the_table_alone() -> None:
    mine = ["replay.selector.kind=even", "replay.selector.bonus=2.0", "replay.views={others: {kind: even}}"]
    run = resolve("pets", "nav3d", "debug", overrides=mine)
    assert isinstance(run.replay.selector, EvenConfig)
    assert "kind: even" in to_yaml(run)
    replay = ShardedReplay.from_config(ReplayConfig(2, 1 << 20, 16, run.replay.selector, views=run.replay.views), 0)
    for stream in range(4):
        replay.insert(tag_block(stream, 0, 30 + stream))
    even = {start: 1.0 for start in valid_starts(replay, 4) if start[1] % 2 == 0}
    assert replay.masses(4).tolist() == [len(valid_starts(replay, 4)), 2.0 * len(even)]
    odd = {start: 0.0 for start in valid_starts(replay, 4) if start[1] % 2}
    assert chi_square(lambda: replay.sample(1, 4), normalised(even | odd), 1000) < 4.5
    assert all(step % 2 == 0 for _, step in starts_of(replay.sample(50, 4, view="others")))


@pytest.mark.usefixtures("toy")
def test_a_toy_selector_is_a_part_of_mixtures() -> None:
    tree = "{kind: mixture, fractions: {uniform: 0.5, even: 0.5}, parts: {even: {bonus: 3.0}}}"
    run = resolve("dreamer_v3", "nav3d", "debug", overrides=[f"replay.selector={tree}"])
    replay = ShardedReplay.from_config(ReplayConfig(1, 1 << 20, 16, run.replay.selector), 0)
    replay.insert(tag_block(0, 0, 41))
    starts = valid_starts(replay, 2)
    expected = normalised({s: 0.5 / 40 + (0.5 / 20 if s[1] % 2 == 0 else 0.0) for s in starts})
    assert chi_square(lambda: replay.sample(16, 2), expected, 10_000) < 4.5
    with pytest.raises(ValueError, match=r"not of 'evn' \(did you mean 'even'\?\)"):
        resolve("pets", "nav3d", "debug", overrides=["replay.selector={kind: mixture, fractions: {evn: 1.0}}"])


def test_components_begin_with_uniform_and_end_with_queues() -> None:
    config = MixtureConfig(fractions={"fifo": 0.25, "recency": 0.25, "prioritized": 0.5})
    assert [(part.kind, part.fraction) for part in parts_of(config)] == [
        ("uniform", 0.0), ("prioritized", 0.5), ("recency", 0.25), ("fifo", 0.25)
    ]  # fmt: skip
    assert [part.kind for part in parts_of(UniformConfig())] == ["uniform"]


def test_the_weight_exponent_of_a_mixture_is_that_of_its_parts() -> None:
    assert MixtureConfig().weight_exponent == MixtureConfig(online=True).weight_exponent == 0.0
    parts = {"prioritized": PrioritizedConfig(weight_exponent=0.7)}
    assert MixtureConfig(fractions={"uniform": 0.5, "prioritized": 0.5}, parts=parts).weight_exponent == 0.7


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["replay.selector.kind=fast"], "replay.selector.kind must be one of uniform, .*, got 'fast'"),
        (["replay.selector.online=true"], "replay.selector.online is a key of kind mixture; .* is uniform"),
        (["replay.selector.kind=prioritized", "replay.selector.exponent=-1"], "exponent must be at least 0, got -1"),
        (["replay.selector={kind: mixture, fractions: {uniform: 0.5}}"], r"must sum to 1, got \{'uniform': 0.5\}"),
        (["replay.selector={kind: mixture, fractions: {uniform: 1.5}}"], "fractions must be at most 1, got 1.5"),
        (
            ["replay.selector={kind: mixture, parts: {recency: {exponent: 2}}}"],
            "parts.recency is of kind recency; parts are of uniform",
        ),
        (["replay.views={other: {exponent: 2}}"], "replay.views.other.kind is missing; it is one of uniform, "),
        (["replay.views={other: fifo}"], "replay.views.other must be a mapping"),
        (["replay.selector.prioritized=1.0"], "'replay.selector.prioritized' is now called '.*fractions.prioritized'"),
        (["replay.selector.priority_exponent=1.0"], "is now called 'replay.selector.exponent'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve("pets", "nav3d", "debug", overrides=overrides)


def test_a_preset_gives_way_to_the_kind_that_is_asked_for() -> None:
    run = resolve("dreamer_v3", "nav3d", "debug", overrides=["replay.selector.kind=uniform"])
    assert run.replay.selector == UniformConfig()
