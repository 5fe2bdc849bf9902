"""An algorithm that learns nothing and checks everything: the seam at which other families of algorithms come in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster import build
from cluster.config import RunConfig
from cluster.stages import Stage, scheduled
from learner.algorithms.base import Exchange, Part, UpdateResult
from learner.batch import SequenceBatch
from tests.fakes import RecurrentPolicy


@dataclass(frozen=True)
class FakeConfig:
    """A configuration that is not of PETS."""

    name: Literal["fake"] = "fake"

    @property
    def context(self) -> int:
        return 0

    @property
    def exchange(self) -> Exchange:
        """Latents come back."""
        return Exchange(gives=frozenset({"writebacks"}))


class FakeAlgorithm:
    """Asserts that the steps of a batch are whole, and refreshes their latents: the stored count becomes negative."""

    def __init__(self, own: FakeConfig, run: RunConfig) -> None:
        self.run = run
        self.seen = np.zeros((), np.int64)

    def update(self, batch: SequenceBatch, part: Part | None = None) -> UpdateResult:
        data, action = batch.data, build.env_spec(self.run).action
        assert batch.shape == (self.run.learner.batch_size, self.run.replayed_length)
        assert data["action"].shape == (*batch.shape, *action.shape)
        assert data["action"].dtype == action.dtype
        latent = data["latent_deter"]
        total = batch.first_step[:, None] + np.arange(batch.shape[1])
        np.testing.assert_array_equal(latent[..., 0], total % 1024)
        refreshed = latent[..., 1] < 0
        count = np.where(refreshed, -1 - latent[..., 1], latent[..., 1])
        np.testing.assert_array_equal(count == 0, data["is_first"])
        self.seen += np.prod(batch.shape)
        fresh = np.stack([latent[..., 0], -1 - count], -1).astype(latent.dtype)
        metrics = {"loss": 1.0 / float(self.seen), "refreshed": float(refreshed.mean())}
        return UpdateResult(metrics, writebacks={"latent_deter": fresh})

    def export_weights(self) -> dict[str, NDArray[Any]]:
        return {"seen": self.seen.copy()}

    def save_artifacts(self, directory: Path) -> list[Path]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = np.array(state["seen"])


def install(monkeypatch: pytest.MonkeyPatch, stages: Callable[[RunConfig], Sequence[Stage]] = scheduled) -> None:
    """Make the family known for one test: a record in the table."""
    family = build.Family(
        FakeConfig,
        FakeAlgorithm,
        lambda own, run, device: RecurrentPolicy(build.env_spec(run).action),
        lambda own, run: tuple(build.env_spec(run).observation),
        stages=stages,
    )
    monkeypatch.setitem(build.FAMILIES, "fake", family)
