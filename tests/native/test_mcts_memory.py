"""A million searches leave no memory behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from native import Mcts

ROOTS, ACTIONS, SIMULATIONS = 2000, 4, 2
KINDS: list[dict[str, Any]] = [
    {"selection": "puct", "dirichlet_fraction": 0.25},
    {"selection": "gumbel", "gumbel_scale": 1.0},
    {"selection": "gumbel", "sampled_actions": 2},
    {"selection": "puct", "normalisation": "tree"},
]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def search(mcts: Mcts, count: int, keep: bool) -> None:
    """So many batches of searches, each with everything that is read of one."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((ROOTS, ACTIONS), np.float32)
    value, seeds = rng.standard_normal(ROOTS, np.float32), np.arange(ROOTS, dtype=np.uint64)
    taken = np.zeros(ROOTS, np.int64)
    for number in range(count):
        if keep and number > 0:
            mcts.begin_kept(logits, value, seeds, mcts.save(), taken)
        else:
            mcts.begin(logits, value, seeds)
        while not mcts.done:
            mcts.expand(logits, value, value, value)
        taken = np.maximum(mcts.actions()[np.arange(ROOTS), mcts.policy()[1]], 0)
        mcts.root(), mcts.nodes(), mcts.details()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_million_searches_leave_no_memory_behind() -> None:
    searches = [(Mcts(num_actions=ACTIONS, simulations=SIMULATIONS, **kind), kind) for kind in KINDS]
    per_kind = 1_000_000 // ROOTS // len(KINDS)
    for mcts, kind in searches:
        search(mcts, 5, "normalisation" in kind)
    before = resident()
    for mcts, kind in searches:
        search(mcts, per_kind, "normalisation" in kind)
    assert resident() - before < 4 * 2**20
