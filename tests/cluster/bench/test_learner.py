"""The learner benchmark on networks too small to measure anything."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from cluster.bench import learner
from cluster.bench.learner import Contender, contenders, interleave, measure
from cluster.bench.learner_cuda import model_flop
from cluster.bench.learner_data import WORKLOADS, Workload, make_algorithm, make_batch, parameter_count
from learner.models.sizes import Dimensions

SIZES = Dimensions(deter=16, hidden=8, classes=4, depth=2, units=8)
TINY = Workload("tiny", dimensions=SIZES, batch_size=2, length=4)


def test_peers_that_are_not_installed_are_named() -> None:
    if importlib.util.find_spec("torchrl") is not None:
        pytest.skip("TorchRL is installed")
    rows = list(measure(TINY, threads=1, rounds=1, compiled=False, memory=False))
    assert {row.case for row in rows} == {
        f"tiny, {precision}: {what}" for precision in ("fp32", "bf16") for what in ("minimum", "median", "speed")
    }
    skipped = {row.peer for row in rows if row.case == "tiny, fp32: minimum"}
    assert skipped == {"TorchRL (skipped: not installed)", "r2dreamer (skipped: not installed)"}
    assert all(row.value > 0.0 and row.ratio is None for row in rows)


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    first, second = Contender(), Contender("TorchRL")
    times = interleave({first: lambda: turns.append("a"), second: lambda: turns.append("b")}, rounds=3, warm_up=1)
    assert turns == ["a", "b"] * 4
    assert [len(times[contender]) for contender in (first, second)] == [3, 3]
    assert {contender.mode for contender in contenders(compiled=True) if not contender.peer} == {
        "fp32",
        "bf16",
        "fp32, compiled",
        "bf16, compiled",
    }


def test_the_small_vector_model_has_the_reference_number_of_parameters() -> None:
    work = WORKLOADS["vector 1m"]
    assert parameter_count(make_algorithm(work, torch.device("cpu"))) == 640_867
    assert work.transitions == 1024


@pytest.mark.parametrize("name", WORKLOADS)
def test_batches_hold_what_the_networks_observe(name: str) -> None:
    work = WORKLOADS[name]
    batch, again = make_batch(work), make_batch(work)
    assert batch.shape == (16, 65)
    assert set(work.spec.observation) <= set(batch.data)
    assert all(np.array_equal(values, again.data[key]) for key, values in batch.data.items())
    assert batch.data["is_first"].sum() == batch.data["is_last"].sum() == 16


def test_operations_are_counted_in_proportion_to_the_batch() -> None:
    cpu = torch.device("cpu")
    single, double = (model_flop(Workload("tiny", dimensions=SIZES, batch_size=size, length=4), cpu) for size in (2, 4))
    assert double == pytest.approx(2.0 * single)


def test_refuses_unknown_workloads_and_counts() -> None:
    with pytest.raises(ValueError, match="unknown workload 'vector 2m'"):
        next(learner.run("vector 1m,vector 2m"))
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        next(learner.run(rounds=0))
