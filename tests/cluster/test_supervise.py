"""Restart budgets, weights by version, seeds by role, and orderly stops."""

from __future__ import annotations

import os
import signal

import pytest

from cluster.seeding import derive_seed
from cluster.signals import stop_on_signals
from cluster.supervise import BudgetSpent, RestartBudget
from cluster.weights import WeightStore


def test_waits_grow_until_the_part_is_healthy_and_the_budget_ends() -> None:
    now = [0.0]
    budget = RestartBudget("rollout-0", limit=4, base=1.0, longest=3.0, healthy_seconds=10.0, clock=lambda: now[0])
    waits = []
    for lifetime in (1.0, 1.0, 1.0, 100.0):
        now[0] += lifetime
        waits.append(budget.spend("killed"))
    assert waits == [1.0, 2.0, 3.0, 1.0]
    with pytest.raises(BudgetSpent, match=r"rollout-0 died 5 times, 4 restarts are allowed: killed"):
        budget.spend("killed")


def test_weights_only_move_forward() -> None:
    store: WeightStore[str] = WeightStore()
    assert store.latest() is None
    assert store.publish(3, "c")
    assert not store.publish(2, "b")
    assert store.latest(2) == (3, "c")
    assert store.latest(3) is None
    assert store.publish(3, "c again")


def test_seeds_differ_by_role_and_index_and_repeat() -> None:
    seeds = [
        derive_seed(1, "rollout"),
        derive_seed(1, "rollout", 0),
        derive_seed(1, "rollout", 1),
        derive_seed(2, "rollout", 0),
    ]
    assert len({*seeds, derive_seed(1, "learner", 0)}) == 5
    assert derive_seed(1, "rollout", 1) == seeds[2]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_signal_raises_the_flag_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as flag:
        assert not flag
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag
        assert flag.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
