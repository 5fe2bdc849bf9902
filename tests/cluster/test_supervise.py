"""Restart budgets, weights by version, seeds by role, and orderly stops."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading

import pytest

from cluster.ending import read_process
from cluster.seeding import derive_seed
from cluster.signals import StopFlag, StopLate
from cluster.supervise import BudgetSpent, RestartBudget, plain
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
    with StopFlag() as flag:
        assert not flag
        assert flag.left() == math.inf
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag()
        assert flag.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_interrupts_what_hangs_and_then_ends_the_process() -> None:
    ended = threading.Event()
    with StopFlag(3.0, ended.set) as flag:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # too early to interrupt
        with pytest.raises(StopLate), flag.interruptible():
            threading.Event().wait(60.0)
        assert not ended.is_set()
        assert flag.left() <= 1.5
        assert ended.wait(60.0)


def test_a_stop_that_is_over_in_time_ends_nothing() -> None:
    ended = threading.Event()
    with StopFlag(0.2, ended.set):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not ended.wait(0.4)


def test_a_second_interrupt_ends_the_process_and_its_children_at_once() -> None:
    program = """
import signal, subprocess, sys, time
from cluster.signals import StopFlag
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
child.send_signal(signal.SIGSTOP)
with StopFlag(600.0) as flag:
    print(child.pid, flush=True)
    while True:
        time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert log.splitlines()[-1] == "worldfleet: error: interrupted"
    now = read_process(child)
    assert now is None or now.state == "Z"


def test_an_error_is_told_in_one_line_without_colours() -> None:
    assert plain("\x1b[36mray::Shard.ping()\x1b[39m failed\nTraceback") == "ray::Shard.ping() failed"
