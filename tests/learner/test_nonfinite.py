"""The firewall: an update that is not finite changes nothing, is counted, leaves a bundle, and ends the run in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learner.algorithms.base import Algorithm, Part, UpdateResult
from learner.algorithms.pets import PetsAlgorithm
from learner.algorithms.pets_config import PetsConfig
from learner.batch import SequenceBatch
from learner.learner import Learner
from learner.learner_config import LearnerConfig
from learner.losses.ensemble_config import EnsembleLossConfig
from learner.models.ensemble_config import EnsembleConfig
from learner.nonfinite import MOST_BUNDLES, NonFiniteError, SkippedUpdate, bad_entries
from tests.learner.dreamers import VARIANTS, batches, make, tiny, with_data
from tests.learner.streams import SPEC, make_batch, make_stream

CPU = torch.device("cpu")
PETS = PetsConfig(
    ensemble=EnsembleConfig(3, (8,), "tanh", gaussian=True),
    loss=EnsembleLossConfig(nll_beta=0.0),
    validation_fraction=0.2,
    average_decay=0.9,
)


def pets_batches() -> list[SequenceBatch]:
    rng = np.random.default_rng(0)
    return [make_batch([make_stream(seed) for seed in range(2)], 8, 6, rng) for _ in range(4)]


def twins(name: str) -> tuple[Any, Any, list[SequenceBatch]]:
    """Two equal algorithms and batches for them."""
    if name == "pets":
        one, other = (PetsAlgorithm(PETS, SPEC, CPU, seed=1, priorities=True) for _ in range(2))
        return one, other, pets_batches()
    config = tiny(name)
    return make(config), make(config), batches(config)


def poisoned(batch: SequenceBatch, key: str, value: float) -> SequenceBatch:
    values = batch.data[key].copy()
    values[1, 2:] = value
    return with_data(batch, **{key: values})


def assert_equal(ours: Any, theirs: Any, where: str = "state") -> None:
    """Nests of tensors and values are equal."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_array_equal(ours, theirs, err_msg=where)
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("name", [*VARIANTS, "pets"])
@pytest.mark.parametrize(("key", "value"), [("reward", np.nan), ("state", np.inf)])
def test_a_batch_that_is_not_finite_changes_nothing(name: str, key: str, value: float) -> None:
    algorithm, twin, (first, second, third, *_) = twins(name)
    algorithm.update(first)
    twin.update(first)
    result = algorithm.update(poisoned(second, key, value))
    assert result.skipped
    assert (result.priorities, result.writebacks) == (None, {})
    assert_equal(algorithm.state_dict(), twin.state_dict())
    assert algorithm.update(third).metrics == twin.update(third).metrics  # no gradient is left either
    assert_equal(algorithm.state_dict(), twin.state_dict())


@pytest.mark.parametrize("name", ["dreamer_v1", "dreamer_v3", "planet", "pets"])
def test_weights_that_overflow_change_nothing(name: str) -> None:
    algorithm, twin, (first, second, *_) = twins(name)
    module = algorithm.model if name == "pets" else algorithm.world.reward
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1e30)
    before = algorithm.state_dict()
    assert algorithm.update(first).skipped
    assert_equal(algorithm.state_dict(), before)
    algorithm.load_state_dict(twin.state_dict())
    assert algorithm.update(second).metrics == twin.update(second).metrics


def test_a_gradient_alone_is_enough() -> None:
    config = tiny("dreamer_v3")
    algorithm = make(config)
    algorithm.world.reward.out.weight.register_hook(lambda gradient: gradient / 0.0)
    result = algorithm.update(batches(config)[0])
    assert result.skipped == ("gradient_norm",)
    assert algorithm.updates == 0


@dataclass
class Scripted(Algorithm):
    """Is finite or not as its batch says; the count of its updates is its state."""

    updates: int = 0
    skips: bool = True
    parts: list[Part | None] = field(default_factory=list)

    def update(self, batch: SequenceBatch, part: Part | None = None) -> UpdateResult:
        self.parts.append(part)
        loss = float(batch.data["reward"].sum())
        if self.skips and not np.isfinite(loss):
            return UpdateResult({"loss": loss, "other": 1.0}, skipped=("loss",))
        self.updates += 1
        return UpdateResult({"loss": loss})

    def export_weights(self) -> dict[str, NDArray[Any]]:
        return {}

    def save_artifacts(self, directory: Path) -> list[Path]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]


def steps(rewards: list[float]) -> Iterator[SequenceBatch]:
    batch = pets_batches()[0]
    for reward in rewards:
        yield with_data(batch, reward=np.full(batch.shape, reward, np.float32))


def scripted(rewards: list[float], write: Callable[[SkippedUpdate], Path | None] | None = None, **more: Any) -> Learner:
    settings = LearnerConfig(batch_size=8, nonfinite_budget=3, **more)
    return Learner(Scripted(), steps(rewards), settings, on_skipped=write)


def test_skipped_updates_are_counted_and_give_nothing_back() -> None:
    seen: list[UpdateResult] = []
    learner = scripted([1.0, np.nan, 2.0], minibatches=2)
    learner._on_result = lambda batch, result: seen.append(result)
    metrics = [learner.step() for _ in range(3)]
    assert [values["nonfinite"] for values in metrics] == [0.0, 2.0, 0.0]
    assert [values["updates"] for values in metrics] == [2.0, 2.0, 4.0]
    assert ["loss" in values for values in metrics] == [True, False, True]
    assert len(seen) == 4


def test_too_many_in_a_row_end_the_run_and_name_the_bundle() -> None:
    written: list[SkippedUpdate] = []

    def write(skipped: SkippedUpdate) -> Path:
        written.append(skipped)
        return Path("bundles/one")

    learner = scripted([1.0, np.nan, np.nan, 1.0, np.nan, np.nan, np.nan], write)
    for _ in range(6):
        learner.step()
    with pytest.raises(
        NonFiniteError, match=r"3 updates in a row .* update 3 was skipped: loss is nan, .* replay-update bundles/one"
    ):
        learner.step()
    assert [(skipped.update, skipped.values.keys()) for skipped in written] == [(2, {"loss"}), (3, {"loss"})]
    assert written[1].state()["algorithm"] == {"updates": 2}


def test_a_run_has_few_bundles_and_one_of_its_end() -> None:
    count = 0

    def write(skipped: SkippedUpdate) -> Path:
        nonlocal count
        count += 1
        return Path(str(count))

    learner = scripted([np.nan, 1.0] * 6 + [np.nan] * 3, write)
    for _ in range(14):
        learner.step()
    assert count == MOST_BUNDLES
    with pytest.raises(NonFiniteError, match=f"replay-update {MOST_BUNDLES + 1}"):
        learner.step()


def test_a_resumed_run_counts_on() -> None:
    first = scripted([np.nan, np.nan])
    first.step()
    first.step()
    second = scripted([np.nan])
    second.load_state_dict(first.state_dict())
    with pytest.raises(NonFiniteError, match="3 updates in a row"):
        second.step()


def test_an_algorithm_that_does_not_look_ends_the_run_at_once() -> None:
    learner = scripted([np.nan])
    learner.algorithm.skips = False  # type: ignore[attr-defined]
    with pytest.raises(NonFiniteError, match="loss is nan after update 1, which was made all the same"):
        learner.step()


def test_data_and_network_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    scripted([np.inf]).step()
    assert "the batch holds values that are not finite: reward of sequence 0, step 0" in caplog.text
    caplog.clear()
    scripted([3e38]).step()  # the sum overflows
    assert "loss is inf, of a batch that is finite" in caplog.text


def test_entries_are_named_by_where_they_come_from() -> None:
    batch = pets_batches()[0]
    assert bad_entries(batch) == []
    state = batch.data["state"].copy()
    state[3, 4, 1] = -np.inf
    weight = batch.weight.copy()
    weight[2] = np.nan
    first, stream = batch.first_step[3] + 4, batch.stream_id[3]
    assert bad_entries(replace(with_data(batch, state=state), weight=weight)) == [
        f"state of sequence 3, step 4 (step {first} of stream {stream}) is -inf",
        f"weight of sequence 2 (stream {batch.stream_id[2]}) is nan",
    ]
    state[:] = np.nan
    assert len(bad_entries(with_data(batch, state=state), 2)) == 2


def test_torch_draws_what_the_seed_says() -> None:
    def drawn(seed: int | None) -> torch.Tensor:
        Learner(Scripted(), steps([]), LearnerConfig(), torch_seed=seed)
        return torch.rand(3)

    assert torch.equal(drawn(7), drawn(7))
    assert not torch.equal(drawn(7), drawn(8))
    before = torch.get_rng_state()
    Learner(Scripted(), steps([]), LearnerConfig())
    assert torch.equal(torch.get_rng_state(), before)
