"""Planning with a linear ensemble: position += velocity-free action, reward -|position|^2 as a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.carry import take_rows
from planners.config import CemConfig, IcemConfig, MppiConfig, SequenceConfig
from planners.ensemble import EnsembleEvaluator, EnsembleModel
from planners.sampling import SamplingPlanner

LOW, HIGH = np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32)
CONFIG = CemConfig(horizon=3, population=100, elites=10, iterations=4, precision="fp32")
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


def make_planner(config: SequenceConfig, weights: Weights) -> SamplingPlanner:
    evaluator = EnsembleEvaluator(config, 2)
    evaluator.update(weights)
    return SamplingPlanner(config, LOW, HIGH, evaluator)


def start(planner: SamplingPlanner, count: int) -> tuple[Any, NDArray[np.bool_]]:
    return planner.initial(np.arange(count, dtype=np.uint64)), np.ones(count, np.bool_)


def test_moves_to_the_optimum_of_the_model() -> None:
    planner = make_planner(CONFIG, make_weights())
    carry, first = start(planner, 2)
    plan, _ = planner.plan(np.array([[0.3, -0.4], [-0.2, 0.1]], np.float32), carry, first, explore=True)
    np.testing.assert_allclose(plan.action, [[-0.6, 0.8], [0.4, -0.2]], atol=0.15)


def test_reports_mean_and_variance_over_the_particles_of_the_executed_plan() -> None:
    """Members that differ by a constant reward c differ by H c in return."""
    planner = make_planner(CONFIG, make_weights((0.0, 0.2)))
    carry, first = start(planner, 1)
    observation = np.array([[0.3, -0.4]], np.float32)
    plan, _ = planner.plan(observation, carry, first, explore=True)
    positions = observation[:, None] + 0.5 * np.cumsum(plan.actions, axis=1)
    returns = -0.7 - np.abs(positions[0, :-1]).sum()
    assert plan.return_mean[0] == pytest.approx(returns + 0.3, abs=1e-4)
    assert plan.return_variance[0] == pytest.approx(0.3**2, abs=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", [IcemConfig, MppiConfig])
def test_a_batch_equals_single_calls(threads: int, method: type[IcemConfig | MppiConfig]) -> None:
    config = method(horizon=3, population=100, precision="fp32", particles=4, threads=threads)
    planner = make_planner(config, make_weights((0.0, 0.1)))
    observation = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    carry, first = start(planner, 5)
    plan, _ = planner.plan(observation, carry, first, explore=True)
    single = [
        planner.plan(observation[b : b + 1], take_rows(carry, slice(b, b + 1)), first[:1], explore=True)[0]
        for b in range(5)
    ]
    np.testing.assert_array_equal(plan.actions, np.concatenate([part.actions for part in single]))


@pytest.mark.parametrize("population", [37, 101])
def test_the_population_need_not_be_a_multiple_of_the_members(population: int) -> None:
    planner = make_planner(IcemConfig(horizon=3, population=population, elites=7), make_weights((0.0, 0.1)))
    carry, first = start(planner, 1)
    plan, _ = planner.plan(np.zeros((1, 2), np.float32), carry, first, explore=True)
    assert np.isfinite(plan.return_mean).all()


def test_every_candidate_meets_every_member() -> None:
    """With TS-infinity a member's constant bias shifts all candidates alike, so it cannot change the ranking."""
    plans = []
    for offsets in ((0.0, 0.0, 0.0), (-50.0, 0.0, 50.0)):
        planner = make_planner(replace(CONFIG, particles=6), make_weights(offsets))
        carry, first = start(planner, 1)
        plans.append(planner.plan(np.array([[0.5, 0.5]], np.float32), carry, first, explore=True)[0].action)
    np.testing.assert_allclose(*plans, atol=0.05)


def test_new_weights_change_the_plan_and_bad_ones_change_nothing() -> None:
    model = EnsembleModel(LOW, HIGH)
    planner = SamplingPlanner(CONFIG, LOW, HIGH, model.evaluator(CONFIG))
    model.update(make_weights())
    carry, first = start(planner, 1)
    observation = np.array([[0.3, -0.4]], np.float32)
    before, _ = planner.plan(observation, carry, first, explore=True)
    reversed_actions = make_weights()
    reversed_actions["weight_1"][:, 4:, :2] *= -1.0
    model.update(reversed_actions)
    after, _ = planner.plan(observation, carry, first, explore=True)
    np.testing.assert_allclose(after.action, -before.action, atol=0.2)
    with pytest.raises(ValueError, match="bias_0"):
        model.update(make_weights() | {"bias_0": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(planner.plan(observation, carry, first, explore=True)[0].actions, after.actions)


def test_a_search_has_as_many_problems_as_fit_into_memory() -> None:
    evaluator = EnsembleEvaluator(replace(CONFIG, population=1 << 17), 2)
    evaluator.update(make_weights((0.0, 0.1)))
    assert evaluator.max_problems == 16  # 2^24 floats; 3 x 2 of actions and 2 returns per candidate
    assert EnsembleEvaluator(replace(CONFIG, population=1 << 24), 2).max_problems == 1


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="particles 5"):
        make_planner(replace(CONFIG, particles=5), make_weights())
    with pytest.raises(ValueError, match="takes 2 actions, the box has 1"):
        EnsembleEvaluator(CONFIG, 1).update(make_weights())
