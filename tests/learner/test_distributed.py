"""N ranks with B/N sequences take the step of one rank with B."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from learner import distributed
from learner.algorithms.pets import PetsAlgorithm
from learner.algorithms.pets_config import PetsConfig
from learner.early_stopping import EarlyStoppingConfig
from learner.learner import take_sequences
from learner.models.ensemble_config import EnsembleConfig
from learner.optim_config import OptimConfig
from tests.learner.streams import SPEC, make_batch, make_stream

WORLD, UPDATES = 2, 12
CONFIG = PetsConfig(
    ensemble=EnsembleConfig(3, (16,), "tanh", gaussian=True, termination=True),
    optimizer=OptimConfig(lr=1e-2, grad_clip=1.0, weight_decay=1e-4),
    early_stopping=EarlyStoppingConfig(patience=3, smoothing=2, min_improvement=0.2, growth=100.0),
    validation_fraction=0.2,
    average_decay=0.5,
)


def run(rank: int, world: int) -> dict[str, Any]:
    """Every rank draws the same batches and keeps its own unequal share."""
    torch.set_num_threads(1)
    streams = [make_stream(seed, terminal=True) for seed in range(2)]
    rng = np.random.default_rng(0)
    algorithm = PetsAlgorithm(CONFIG, SPEC, torch.device("cpu"), seed=3, dtype=torch.float64)
    metrics: list[dict[str, float]] = []
    for _ in range(UPDATES):
        batch = make_batch(streams, 12, 9, rng)
        shares = [np.arange(12)] if world == 1 else [np.arange(5), np.arange(5, 12)]
        metrics.append(algorithm.update(take_sequences(batch, shares[rank])).metrics)
    return {"state": algorithm.state_dict()["model"], "metrics": metrics}


def worker(rank: int, port: int, directory: str) -> None:
    distributed.initialise("127.0.0.1", port, rank, WORLD, "gloo", 60.0)
    torch.save(run(rank, WORLD), Path(directory) / f"rank_{rank}.pt")
    distributed.destroy()


@pytest.mark.timeout(120)
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.spawn(worker, (distributed.free_port(), str(tmp_path)), nprocs=WORLD)  # type: ignore[attr-defined, no-untyped-call]
    one = run(0, 1)
    ranks = [torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for name, value in one["state"].items():
        assert torch.equal(ranks[0]["state"][name], ranks[1]["state"][name]), name
        torch.testing.assert_close(ranks[0]["state"][name], value, rtol=1e-8, atol=1e-9, msg=name)
    for step, (want, have, other) in enumerate(zip(one["metrics"], *(rank["metrics"] for rank in ranks), strict=True)):
        assert have == other
        assert want.keys() == have.keys()
        for name in want.keys() - {"data_seen"}:  # a rank knows the streams of its own share
            assert have[name] == pytest.approx(want[name], rel=1e-6), (step, name)
    assert one["metrics"][0]["stopped"] == 0.0
    assert {m["stopped"] for m in one["metrics"]} == {0.0, 1.0}  # the ranks also stop together


def test_one_rank_needs_no_group() -> None:
    collective = distributed.initialise("127.0.0.1", 1, 0, 1)
    value = torch.tensor([2.0])
    collective.sum_([value])
    collective.barrier()
    assert (collective.rank, collective.world_size, value.item()) == (0, 1, 2.0)
    with pytest.raises(ValueError, match="got 2 of 2"):
        distributed.initialise("127.0.0.1", 1, 2, 2)
