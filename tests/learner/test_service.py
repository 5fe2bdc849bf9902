"""The actor of a rank as a plain class: who publishes and when, and what it reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch
from learner.learner import Learner, is_due
from learner.learner_config import LearnerConfig
from learner.means import mean_metrics, sum_metrics
from learner.service import LearnerActor
from tests.learner.test_nonfinite import Scripted, steps


class Sometimes(Scripted):
    """Reports `rare` at every other update, and counts its exports."""

    exports = 0

    def update(self, batch: SequenceBatch, part: Any = None) -> UpdateResult:
        result = super().update(batch, part)
        return UpdateResult({**result.metrics, **({"rare": 6.0} if self.updates % 2 else {})})

    def export_weights(self) -> dict[str, NDArray[Any]]:
        self.exports += 1
        return {"at": np.array(self.updates)}


class Source:
    """Batches without end."""

    def __init__(self) -> None:
        self._batches = steps([1.0, 2.0, 4.0] * 10)

    def __iter__(self) -> Iterator[SequenceBatch]:
        return self._batches

    def __next__(self) -> SequenceBatch:
        return next(self._batches)

    def write_back(self, batch: SequenceBatch, result: UpdateResult) -> None:
        pass


class Store:
    """A weight store as its clients see it."""

    def __init__(self) -> None:
        self.published: list[tuple[int, int]] = []
        self.publish = self

    def remote(self, version: int, packed: dict[str, Any]) -> None:
        self.published.append((version, int(packed["at"])))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(ray, "get", lambda value: value)
    return Store()


def actor(store: Store, rank: int, publish_every: int, **settings: Any) -> tuple[LearnerActor, Sometimes, list[float]]:
    """A started rank, its algorithm, and what its counter of updates was told."""
    algorithm = Sometimes()
    config = LearnerConfig(batch_size=8, device="cpu", **settings)
    rank_actor = LearnerActor(
        lambda batches, sink: Learner(algorithm, batches, config, on_result=sink),
        Source,  # type: ignore[arg-type]
        store,
        publish_every,
        rank,
        device="cpu",
    )
    told: list[float] = []
    rank_actor._updates.inc = told.append  # type: ignore[method-assign, assignment]
    rank_actor.start(("", 0), None)
    return rank_actor, algorithm, told


def test_rank_0_publishes_as_many_versions_as_updates_ask_for(store: Store) -> None:
    rank_actor, _, told = actor(store, 0, publish_every=5, minibatches=2)
    assert rank_actor.train(4)[0] == 8
    assert rank_actor.train(2)[0] == 12
    assert store.published == [(6, 6), (10, 10)]  # after the batch that reached update 5, and 10
    assert told == [8, 4]


def test_other_ranks_export_nothing(store: Store) -> None:
    rank_actor, algorithm, _ = actor(store, 1, publish_every=1)
    rank_actor.train(4)
    assert (algorithm.exports, store.published) == (0, [])


def test_metrics_are_means_over_the_batches_that_have_them(store: Store) -> None:
    rank_actor, _, _ = actor(store, 0, publish_every=100)
    _, sums = rank_actor.train(4)
    assert sums["rare"] == (12.0, 2)
    assert sums["loss"][1] == 4
    assert sum_metrics([{"a": 1.0}, {"a": 2.0, "b": 4.0}]) == {"a": (3.0, 2), "b": (4.0, 1)}
    assert mean_metrics([{"a": 1.0}, {"a": 2.0, "b": 4.0}]) == {"a": 1.5, "b": 4.0}


def test_multiples_that_are_passed_are_due() -> None:
    assert [is_due(4, before, before + 3) for before in (0, 1, 3, 4)] == [False, True, True, False]
    assert not is_due(4, 4, 4)  # an update that was skipped
