"""EnsemblePlanner on a linear ensemble: position += velocity-free action, reward -|position|^2 as a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from planners import ensemble as ensemble_module
from planners.base import take_rows
from planners.config import PlannerConfig
from planners.ensemble import EnsemblePlanner

LOW, HIGH = np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32)
CONFIG = PlannerConfig(method="cem", horizon=3, population=100, elites=10, iterations=4, precision="fp32")
Weights = dict[str, NDArray[Any]]


def make_weights(offsets: tuple[float, ...] = (0.0, 0.0)) -> Weights:
    """State [2] moves by 0.5 * action; member k's reward is -|position_0| - |position_1| + offsets[k], by ReLUs."""
    members = len(offsets)
    inner = np.zeros((members, 4, 8), np.float32)  # relu(+-s_i), relu(+-a_i)
    for i in range(4):
        inner[:, i, 2 * i], inner[:, i, 2 * i + 1] = 1.0, -1.0
    outer = np.zeros((members, 8, 3), np.float32)
    for i in range(2):
        outer[:, 4 + 2 * i, i], outer[:, 5 + 2 * i, i] = 0.5, -0.5
    outer[:, :4, 2] = -1.0
    bias = np.zeros((members, 3), np.float32)
    bias[:, 2] = offsets
    return {
        "weight_0": inner,
        "bias_0": np.zeros((members, 8), np.float32),
        "weight_1": outer,
        "bias_1": bias,
        "input_shift": np.zeros(4, np.float32),
        "input_scale": np.ones(4, np.float32),
        "output_shift": np.zeros(3, np.float32),
        "output_scale": np.ones(3, np.float32),
        "activation": np.frombuffer(b"relu", np.uint8),
        "gaussian": np.array(0),
        "has_termination": np.array(0),
    }


def start(planner: EnsemblePlanner, count: int) -> tuple[Any, NDArray[np.bool_]]:
    return planner.initial(np.arange(count, dtype=np.uint64)), np.ones(count, np.bool_)


def test_moves_to_the_optimum_of_the_model() -> None:
    planner = EnsemblePlanner(CONFIG, make_weights(), LOW, HIGH)
    carry, first = start(planner, 2)
    plan, _ = planner.plan(np.array([[0.3, -0.4], [-0.2, 0.1]], np.float32), carry, first)
    np.testing.assert_allclose(plan.action, [[-0.6, 0.8], [0.4, -0.2]], atol=0.15)


def test_reports_mean_and_variance_over_the_particles_of_the_executed_plan() -> None:
    """Members that differ by a constant reward c differ by H c in return."""
    planner = EnsemblePlanner(CONFIG, make_weights((0.0, 0.2)), LOW, HIGH)
    carry, first = start(planner, 1)
    observation = np.array([[0.3, -0.4]], np.float32)
    plan, _ = planner.plan(observation, carry, first)
    positions = observation[:, None] + 0.5 * np.cumsum(plan.actions, axis=1)
    returns = -0.7 - np.abs(positions[0, :-1]).sum()
    assert plan.return_mean[0] == pytest.approx(returns + 0.3, abs=1e-4)
    assert plan.return_variance[0] == pytest.approx(0.3**2, abs=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", ["icem", "mppi"])
def test_a_batch_equals_single_calls(threads: int, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, method=method, particles=4, threads=threads)
    planner = EnsemblePlanner(config, make_weights((0.0, 0.1)), LOW, HIGH)
    observation = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    carry, first = start(planner, 5)
    plan, _ = planner.plan(observation, carry, first)
    single = [planner.plan(observation[b : b + 1], take_rows(carry, slice(b, b + 1)), first[:1])[0] for b in range(5)]
    np.testing.assert_array_equal(plan.actions, np.concatenate([part.actions for part in single]))
    monkeypatch.setattr(ensemble_module, "_MAX_FLOATS", 2 * 100 * (3 * 2 + 4))
    in_turns, _ = EnsemblePlanner(config, make_weights((0.0, 0.1)), LOW, HIGH).plan(observation, carry, first)
    np.testing.assert_array_equal(plan.actions, in_turns.actions)


@pytest.mark.parametrize("population", [37, 101])
def test_the_population_need_not_be_a_multiple_of_the_members(population: int) -> None:
    config = replace(CONFIG, population=population, method="icem", elites=7)
    planner = EnsemblePlanner(config, make_weights((0.0, 0.1)), LOW, HIGH)
    carry, first = start(planner, 1)
    plan, _ = planner.plan(np.zeros((1, 2), np.float32), carry, first)
    assert np.isfinite(plan.return_mean).all()


def test_every_candidate_meets_every_member() -> None:
    """With TS-infinity a member's constant bias shifts all candidates alike, so it cannot change the ranking."""
    plans = []
    for offsets in ((0.0, 0.0, 0.0), (-50.0, 0.0, 50.0)):
        planner = EnsemblePlanner(replace(CONFIG, particles=6), make_weights(offsets), LOW, HIGH)
        carry, first = start(planner, 1)
        plans.append(planner.plan(np.array([[0.5, 0.5]], np.float32), carry, first)[0].action)
    np.testing.assert_allclose(*plans, atol=0.05)


def test_new_weights_change_the_plan_and_bad_ones_change_nothing() -> None:
    planner = EnsemblePlanner(CONFIG, make_weights(), LOW, HIGH)
    carry, first = start(planner, 1)
    observation = np.array([[0.3, -0.4]], np.float32)
    before, _ = planner.plan(observation, carry, first)
    reversed_actions = make_weights()
    reversed_actions["weight_1"][:, 4:, :2] *= -1.0
    planner.update(reversed_actions)
    after, _ = planner.plan(observation, carry, first)
    np.testing.assert_allclose(after.action, -before.action, atol=0.2)
    with pytest.raises(ValueError, match="bias_0"):
        planner.update(make_weights() | {"bias_0": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(planner.plan(observation, carry, first)[0].actions, after.actions)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="particles 5"):
        EnsemblePlanner(replace(CONFIG, particles=5), make_weights(), LOW, HIGH)
    with pytest.raises(ValueError, match="2 actions"):
        EnsemblePlanner(CONFIG, make_weights(), LOW[:1], HIGH[:1])
