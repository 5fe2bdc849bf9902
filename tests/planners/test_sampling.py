"""The planning loop on analytic evaluators whose optimum is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.carry import take_rows
from planners.config import CemConfig, EliteConfig, IcemConfig, MppiConfig, RandomShootingConfig, SequenceConfig
from planners.risk_config import MeanStdRisk
from planners.sampling import SamplingPlanner, uniform_actions

LOW, HIGH = np.array([-1.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32)
ICEM = IcemConfig(horizon=4, population=300, elites=30, iterations=8, noise_beta=0.5)
CEM = CemConfig(horizon=4, population=300, elites=30, iterations=8)
METHODS: list[SequenceConfig] = [
    ICEM,
    replace(ICEM, execute="best"),
    CEM,
    replace(CEM, truncate=True),
    MppiConfig(horizon=4, population=2000, iterations=8, temperature=0.05, init_std=0.2),
]
by_method = pytest.mark.parametrize("config", METHODS, ids=["icem", "icem best", "cem", "cem truncated", "mppi"])


def quadratic(
    observation: NDArray[np.float32], actions: NDArray[np.float32], seeds: NDArray[np.uint64]
) -> NDArray[np.float32]:
    """Returns -100 - |action - observation|^2, of two particles that differ by 0.2; NaN where an action exceeds 0.8."""
    assert len(seeds) == len(observation)
    returns = -100.0 - np.sum((actions - observation[:, None, None]) ** 2, axis=(-1, -2))
    returns[(actions > 0.8).any(axis=(-1, -2))] = np.nan
    return np.stack([returns - 0.1, returns + 0.1], axis=-1).astype(np.float32)


def make_planner(config: SequenceConfig) -> SamplingPlanner:
    return SamplingPlanner(config, LOW, HIGH, quadratic)


@by_method
def test_reaches_the_optimum_beside_a_nan_region(config: SequenceConfig) -> None:
    planner = make_planner(config)
    target = np.array([[0.3, -0.5], [-0.2, 0.6]], np.float32)
    plan, carry = planner.plan(target, planner.initial(np.array([1, 2], np.uint64)), np.ones(2, np.bool_), explore=True)
    np.testing.assert_allclose(plan.actions, np.broadcast_to(target[:, None], (2, 4, 2)), atol=0.2)
    np.testing.assert_array_equal(plan.action, plan.actions[:, 0])
    expected = -100.0 - np.sum((plan.actions - target[:, None]) ** 2, axis=(-1, -2))
    np.testing.assert_allclose(plan.return_mean, expected, rtol=1e-5)
    np.testing.assert_allclose(plan.return_variance, 0.01, rtol=1e-2)
    assert carry.step.tolist() == [1, 1]


def test_random_shooting_executes_its_best_candidate() -> None:
    seen: list[NDArray[np.float32]] = []

    def evaluate(*arguments: Any) -> NDArray[np.float32]:
        seen.append(arguments[1])
        return quadratic(*arguments)

    planner = SamplingPlanner(RandomShootingConfig(horizon=4, population=300), LOW, HIGH, evaluate)
    target = np.zeros((1, 2), np.float32)
    plan, _ = planner.plan(target, planner.initial(np.array([1], np.uint64)), np.ones(1, np.bool_), explore=True)
    candidates, executed = seen
    assert executed.shape == (1, 1, 4, 2)
    scores = quadratic(target, candidates, np.zeros(1, np.uint64)).mean(axis=-1)[0]
    np.testing.assert_array_equal(plan.actions[0], candidates[0, np.nanargmax(scores)])


@by_method
def test_a_batch_equals_single_calls_over_an_episode_start(config: SequenceConfig) -> None:
    planner = make_planner(config)
    rng = np.random.default_rng(0)
    together = planner.initial(np.array([3, 4, 5], np.uint64))
    alone = [take_rows(together, slice(b, b + 1)) for b in range(3)]
    for is_first in ([True, True, True], [False, True, False]):
        observation, first = rng.uniform(-0.5, 0.5, (3, 2)).astype(np.float32), np.array(is_first)
        plan, together = planner.plan(observation, together, first, explore=True)
        for b in range(3):
            rows = slice(b, b + 1)
            single, alone[b] = planner.plan(observation[rows], alone[b], first[rows], explore=True)
            np.testing.assert_array_equal(single.actions, plan.actions[rows])
            np.testing.assert_array_equal(alone[b].elites, together.elites[rows])


def test_an_episode_start_forgets_the_last_episode() -> None:
    planner = make_planner(ICEM)
    target, first = np.full((1, 2), 0.5, np.float32), np.ones(1, np.bool_)
    carry = planner.initial(np.array([1], np.uint64))
    _, used = planner.plan(target, carry, first, explore=True)
    clean = replace(carry, step=used.step)
    after_used, next_used = planner.plan(-target, used, first, explore=True)
    after_clean, next_clean = planner.plan(-target, clean, first, explore=True)
    np.testing.assert_array_equal(after_used.actions, after_clean.actions)
    np.testing.assert_array_equal(next_used.elites, next_clean.elites)


def test_the_warm_start_helps_a_small_budget() -> None:
    config = replace(CEM, iterations=1, population=60, elites=6, init_std=0.2)
    target, error = np.full((64, 2), 0.5, np.float32), {}
    for warm_start in (True, False):
        planner = SamplingPlanner(replace(config, warm_start=warm_start), LOW, HIGH, quadratic)
        carry, is_first = planner.initial(np.arange(64, dtype=np.uint64)), np.ones(64, np.bool_)
        for _ in range(8):
            plan, carry = planner.plan(target, carry, is_first, explore=True)
            is_first = np.zeros(64, np.bool_)
        error[warm_start] = float(np.mean((plan.actions - target[:, None]) ** 2))
    assert error[True] < 0.5 * error[False]


def test_the_risk_measure_scores_the_candidates() -> None:
    """Left of zero the particles agree, right of it their mean is higher but they differ."""

    def evaluate(
        observation: NDArray[np.float32], actions: NDArray[np.float32], seeds: NDArray[np.uint64]
    ) -> NDArray[np.float32]:
        x = actions[:, :, 0, 0]
        spread = np.maximum(x, 0.0) * 10.0
        return np.stack([x - spread, x + spread], axis=-1)

    choice = {}
    configs: list[EliteConfig] = [CEM, replace(CEM, risk=MeanStdRisk(weight=1.0))]
    for config in configs:
        planner = SamplingPlanner(config, LOW, HIGH, evaluate)
        plan, _ = planner.plan(
            np.zeros((1, 1), np.float32), planner.initial(np.array([1], np.uint64)), np.ones(1, np.bool_), explore=True
        )
        choice[config.risk.measure] = plan.action[0, 0]
    assert choice["mean"] > 0.8
    assert abs(choice["mean_std"]) < 0.1


def test_a_model_that_only_fails_gives_the_middle_of_the_box() -> None:
    planner = SamplingPlanner(ICEM, LOW, HIGH, lambda o, a, s: np.full((*a.shape[:2], 2), np.nan, np.float32))
    plan, carry = planner.plan(
        np.zeros((1, 2), np.float32), planner.initial(np.array([1], np.uint64)), np.ones(1, np.bool_), explore=True
    )
    assert (plan.actions == 0.0).all()
    assert np.isfinite(carry.mean).all()
    assert np.isnan(plan.return_mean).all()


def test_exploring_changes_nothing() -> None:
    planner = make_planner(ICEM)
    target, carry = np.full((1, 2), 0.5, np.float32), planner.initial(np.array([1], np.uint64))
    plans = [planner.plan(target, carry, np.ones(1, np.bool_), explore)[0] for explore in (True, False)]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)


def test_a_skipped_step_draws_other_candidates_next_and_forgets_the_elites() -> None:
    planner = make_planner(ICEM)
    target, first = np.full((1, 2), 0.5, np.float32), np.zeros(1, np.bool_)
    _, used = planner.plan(target, planner.initial(np.array([1], np.uint64)), first, explore=True)
    skipped = planner.skip(used)
    assert used.has_elites.all()
    assert not skipped.has_elites.any()
    assert skipped.step.tolist() == [2]
    one, two = (planner.plan(target, carry, first, explore=True)[0] for carry in (used, skipped))
    assert not np.array_equal(one.actions, two.actions)


def test_uniform_actions_fill_the_box_and_depend_on_seed_and_step() -> None:
    seed, step = np.arange(2000, dtype=np.uint64), np.zeros(2000, np.int64)
    actions = uniform_actions(LOW, HIGH, seed, step)
    np.testing.assert_allclose(actions.min(axis=0), LOW, atol=0.02)
    np.testing.assert_allclose(actions.max(axis=0), HIGH, atol=0.02)
    np.testing.assert_allclose(actions.mean(axis=0), 0.0, atol=0.1)
    np.testing.assert_array_equal(actions[5:7], uniform_actions(LOW, HIGH, seed[5:7], step[5:7]))
    later = uniform_actions(LOW, HIGH, seed, step + 1)
    assert not np.isclose(actions, later).all(axis=1).any()
