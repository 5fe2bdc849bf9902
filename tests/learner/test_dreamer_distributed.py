"""N ranks with B/N sequences take the Dreamer update of one rank with B, with all its moving averages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from learner import distributed
from learner.algorithms.dreamer_config import DreamerConfig
from learner.learner import take_sequences
from tests.learner.dreamers import DISCRETE, SPEC, batches, make, tiny

WORLD, UPDATES, SIZE = 2, 5, 6
CASES = {
    "dreamer_v1": SPEC,
    "dreamer_v2": DISCRETE,
    "dreamer_v3": SPEC,
    "plan2explore": SPEC,
}


def config_of(name: str) -> DreamerConfig:
    """With a moving range of returns that leaves its floor, and a slow critic that moves."""
    config = tiny(name)
    assert config.behaviour is not None
    behaviour = replace(config.behaviour, return_rate=0.5, return_limit=1e-3, slow_every=2)
    free_nats = 0.4 if name == "dreamer_v1" else config.losses.free_nats  # amid the KLs that come
    return replace(config, behaviour=behaviour, losses=replace(config.losses, free_nats=free_nats))


def run(name: str, rank: int, world: int) -> dict[str, Any]:
    """Every rank draws the same batches and keeps its own share."""
    config, spec = config_of(name), CASES[name]
    algorithm = make(config, spec, seed=3, dtype=torch.float64)
    share = np.array_split(np.arange(SIZE), world)[rank]
    results = [algorithm.update(take_sequences(b, share)) for b in batches(config, spec, SIZE)[:UPDATES]]
    return {
        "state": algorithm.state_dict(),
        "metrics": [result.metrics for result in results],
        "written": [torch.from_numpy(values) for values in results[-1].writebacks.values()],
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
        close(first["state"], second["state"], name, exact=True)
        close(first["state"], one["state"], name)
        for step, (want, have) in enumerate(zip(one["metrics"], first["metrics"], strict=True)):
            assert want.keys() == have.keys()
            for key, value in want.items():
                assert have[key] == pytest.approx(value, rel=1e-6, abs=1e-9), (name, step, key)
        for values, *parts in zip(one["written"], first["written"], second["written"], strict=True):
            torch.testing.assert_close(torch.cat(parts), values, msg=name)
        if name != "dreamer_v1":
            continue
        kls = [metrics["kl"] for metrics in one["metrics"]]
        assert min(kls) < 0.4 < max(kls)  # the free nats of the batch were both spent and not


def close(ours: Any, theirs: Any, where: str, exact: bool = False) -> None:
    """States are equal: parameters, moments, slow critic, range of returns, counters."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            close(ours[key], theirs[key], f"{where}.{key}", exact)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            close(one, other, f"{where}[{index}]", exact)
    elif isinstance(theirs, torch.Tensor) and theirs.is_floating_point():
        tolerance = 0.0 if exact else 1e-6
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=where)
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where
