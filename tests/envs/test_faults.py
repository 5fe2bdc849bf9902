"""The records of failing simulators and their budget."""

from __future__ import annotations

import pickle

import pytest

from envs.faults import Fault, FaultBudget, FaultsSpent, StepFault, instance_seed, note


def test_faults_tell_what_is_needed_to_see_them_again() -> None:
    try:
        raise OSError("the server\nis gone " + "x" * 400)
    except OSError as error:
        fault = note(2, 77, 3, 0, error)
    assert (fault.kind, fault.where, fault.step) == ("exception", "reset", 0)
    assert fault.text.startswith("OSError: the server is gone xxx")
    assert len(fault.text) == 300
    assert "test_faults.py" in fault.traceback
    assert fault.describe().startswith("environment 2 failed (exception) in reset 3 after seed 77: OSError: the server")
    fault = note(0, 5, 1, 12, StepFault("reward", "reward is nan"))
    assert fault == Fault(0, "reward", "step", 5, 1, 12, "reward is nan")
    assert fault.describe() == "environment 0 failed (reward) in step 12 of episode 1 after seed 5: reward is nan"


def test_step_faults_survive_pickling() -> None:
    fault = pickle.loads(pickle.dumps(StepFault("nonfinite", "'state' is nan")))
    assert (fault.kind, str(fault)) == ("nonfinite", "'state' is nan")


def test_instances_have_seeds_of_their_own() -> None:
    seeds = [instance_seed(root, remakes) for root in (7, 8) for remakes in range(50)]
    assert (seeds[0], seeds[50]) == (7, 8)
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == [instance_seed(root, remakes) for root in (7, 8) for remakes in range(50)]


def test_a_budget_holds_over_the_last_ten_thousand_steps() -> None:
    budget = FaultBudget(2)
    budget.spend(512, 2)
    budget.spend(10_000 - 1, 0)
    with pytest.raises(FaultsSpent, match=r"3 faults of simulators in 10000 steps, env.fault_budget allows 2"):
        FaultBudget(2, budget.state_dict()).spend(0, 1)
    budget.spend(1, 0)  # the first two are forgotten
    budget.spend(100, 2)
    resumed = FaultBudget(2, budget.state_dict())
    for each in (budget, resumed):
        with pytest.raises(FaultsSpent, match="4 faults"):
            each.spend(100, 2)
    resumed.spend(100, 2)  # a run that is resumed after its end has a whole budget


def test_no_budget_allows_no_fault() -> None:
    budget = FaultBudget(0)
    budget.spend(1000, 0)
    with pytest.raises(FaultsSpent, match=r"1 fault of simulators in 1064 steps, env\.fault_budget allows 0"):
        budget.spend(64, 1)
