"""N ranks with B/N sequences take the MuZero update of one rank with B, whatever the weights of their shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from learner import distributed
from learner.learner import take_sequences
from tests.learner.muzeros import SPECS, batches, make, randomise_heads, tiny

WORLD, UPDATES, SIZE = 2, 4, 6
CASES = ("sampled_muzero", "efficientzero")


def run(name: str, rank: int, world: int) -> dict[str, Any]:
    """Every rank draws the same batches and keeps its own share."""
    algorithm = make(tiny(name, target_every=2), seed=3, dtype=torch.float64)
    randomise_heads(algorithm, scale=0.1)
    share = np.array_split(np.arange(SIZE), world)[rank]
    results = [algorithm.update(take_sequences(b, share)) for b in batches(SPECS[name], SIZE, count=UPDATES)]
    priorities = [result.priorities for result in results]
    return {
        "weights": {key: value.clone() for key, value in algorithm.model.state_dict().items()},
        "metrics": [result.metrics for result in results],
        "priorities": torch.stack([torch.from_numpy(values) for values in priorities if values is not None]),
    }


def worker(rank: int, port: int, directory: str) -> None:
    torch.set_num_threads(1)
    distributed.initialise("127.0.0.1", port, rank, WORLD, "gloo", 60.0)
    torch.save({name: run(name, rank, WORLD) for name in CASES}, Path(directory) / f"rank_{rank}.pt")
    distributed.destroy()


@pytest.mark.timeout(120)
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    mp.spawn(worker, (distributed.free_port(), str(tmp_path)), nprocs=WORLD)  # type: ignore[attr-defined, no-untyped-call]
    ranks = [torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(WORLD)]
    for name in CASES:
        one, (first, second) = run(name, 0, 1), (rank[name] for rank in ranks)
        assert first["metrics"] == second["metrics"]
        for key, value in one["weights"].items():
            assert torch.equal(first["weights"][key], second["weights"][key]), key
            torch.testing.assert_close(first["weights"][key], value, rtol=1e-7, atol=1e-9, msg=f"{name} {key}")
        for step, (want, have) in enumerate(zip(one["metrics"], first["metrics"], strict=True)):
            assert want.keys() == have.keys()
            for key, number in want.items():
                assert have[key] == pytest.approx(number, rel=1e-6, abs=1e-9), (name, step, key)
        both = torch.cat([first["priorities"], second["priorities"]], 1)
        torch.testing.assert_close(both, one["priorities"], rtol=1e-5, atol=1e-6)
