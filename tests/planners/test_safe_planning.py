"""Risk, constraints, guards and smoothness in the planning loop: over the C++ ensemble and over a torch model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from actors.carry import take_rows
from planners.base import Rollouts
from planners.candidates import Judged, roughness
from planners.config import CemConfig, IcemConfig, MppiConfig, RandomShootingConfig, SequenceConfig
from planners.constraint_config import Bounds, ConstraintConfig, Cost, GuardConfig
from planners.constraints import Verdict
from planners.ensemble import EnsembleEvaluator, EnsembleModel
from planners.factory import make_planner
from planners.guard import disagreement, penalty, usual_disagreement
from planners.risk_config import CvarRisk, MeanStdRisk, WorstRisk
from planners.sampling import SamplingPlanner
from planners.scoring import TorchEvaluator
from tests.planners.test_ensemble import make_weights

LOW, HIGH = np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32)
CEM = CemConfig(horizon=3, population=120, elites=12, iterations=4, precision="fp32")
WALL = ConstraintConfig(signal=Bounds(index=0, least=0.6, most=9.0), limit=0.0)
"""The optimum is at 0; the constraint keeps the first number of the state above 0.6."""

Floats = NDArray[np.float32]


def ensemble_planner(config: SequenceConfig, offsets: tuple[float, ...] = (0.0, 0.0)) -> SamplingPlanner:
    model = EnsembleModel(LOW, HIGH)
    planner = make_planner(config, model, LOW, HIGH)
    model.update(make_weights(offsets))
    assert isinstance(planner, SamplingPlanner)
    return planner


class Mover:
    """The same dynamics as a torch model, as an ensemble of 2: state += 0.5 * action, reward -|state before|_1."""

    num_particles, num_draws, num_members = 4, 0, 2
    state_scale = np.ones(2, np.float32)

    def initial(self, observation: Any, num_candidates: int) -> torch.Tensor:
        return torch.as_tensor(observation).repeat_interleave(num_candidates * self.num_particles, dim=0)

    def step(self, latent: Any, action: Any, noise: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return latent + 0.5 * action, -latent.abs().sum(dim=1), torch.ones(len(latent))

    def value(self, latent: Any) -> torch.Tensor:
        return latent.new_zeros(len(latent))

    def states(self, latent: Any) -> Any:
        return latent

    def costs(self, latent: Any) -> Any:
        return (latent[:, 0] < 0.6).float()


def torch_planner(config: SequenceConfig) -> SamplingPlanner:
    return SamplingPlanner(config, LOW, HIGH, TorchEvaluator(Mover()))


START = np.array([[1.2, -0.5], [1.0, 0.3], [0.8, 0.0]], np.float32)


def begin(planner: SamplingPlanner, count: int) -> tuple[Any, NDArray[np.bool_]]:
    return planner.initial(np.arange(1, count + 1, dtype=np.uint64)), np.ones(count, np.bool_)


METHODS: list[SequenceConfig] = [
    CEM,
    IcemConfig(horizon=3, population=120, elites=12, iterations=4, precision="fp32"),
    MppiConfig(horizon=3, population=400, iterations=4, temperature=0.1, precision="fp32"),
    RandomShootingConfig(horizon=3, population=2000, precision="fp32"),
]


@pytest.mark.parametrize("config", METHODS, ids=lambda config: config.method)
@pytest.mark.parametrize("make", [ensemble_planner, torch_planner])
def test_a_constraint_is_kept_and_its_absence_crosses_it(make: Any, config: SequenceConfig) -> None:
    for constraint in (None, WALL):
        planner = make(replace(config, constraint=constraint))
        plan, _ = planner.plan(START, *begin(planner, 3), explore=False)
        lowest = (START[:, None] + 0.5 * np.cumsum(plan.actions, axis=1))[..., 0].min(axis=1)
        if constraint is None:
            assert (lowest < 0.6).all()
            assert set(plan.metrics()) == {"return_mean", "return_variance"}
        else:
            assert (lowest >= 0.6 - 1e-5).all()
            assert (lowest < 1.0).all()  # as near to the optimum as it may
            metrics = plan.metrics()
            assert not metrics["violation_flagged"].any()
            assert not metrics["violation_probability"].any()
            np.testing.assert_array_equal(metrics["violation_step"], 3.0)


def test_costs_of_a_model_constrain_as_its_states_do() -> None:
    constraint = ConstraintConfig(signal=Cost(most=0.5), limit=0.0)
    planner = torch_planner(replace(CEM, constraint=constraint))
    plan, _ = planner.plan(START, *begin(planner, 3), explore=False)
    assert ((START[:, None] + 0.5 * np.cumsum(plan.actions, axis=1))[..., 0] >= 0.6 - 1e-5).all()


def test_the_fallback_acts_where_nothing_is_feasible_and_the_crash_is_flagged() -> None:
    start = np.array([[-2.0, 0.0], [2.0, 0.0]], np.float32)  # 1.5 m in 3 steps do not reach the wall
    braked = replace(CEM, constraint=replace(WALL, fallback=(0.25, -0.5)))
    plan, carry = ensemble_planner(braked).plan(start, *begin(ensemble_planner(braked), 2), explore=False)
    np.testing.assert_array_equal(plan.actions[0], np.tile(np.array([0.25, -0.5], np.float32), (3, 1)))
    metrics = plan.metrics()
    assert metrics["fallback"].tolist() == [1.0, 0.0]
    assert metrics["violation_flagged"].tolist() == [1.0, 0.0]
    assert metrics["violation_probability"].tolist() == [1.0, 0.0]
    assert metrics["violation_step"].tolist() == [1.0, 3.0]
    np.testing.assert_array_equal(carry.last, plan.action)
    least = ensemble_planner(replace(CEM, constraint=WALL))
    plan, _ = least.plan(start, *begin(least, 2), explore=False)
    assert plan.action[0, 0] > 0.8  # the way out
    assert plan.metrics()["violation_flagged"].tolist() == [1.0, 0.0]


def test_a_fallback_that_is_no_action_is_refused() -> None:
    for action in ((0.0,), (0.0, 1.5)):
        with pytest.raises(ValueError, match=r"planner\.constraint\.fallback must be an action of 2 numbers"):
            ensemble_planner(replace(CEM, constraint=replace(WALL, fallback=action)))


EVERYTHING = replace(
    CEM,
    particles=4,
    risk=CvarRisk(alpha=0.4),
    constraint=replace(WALL, form="cvar", fallback=(0.0, 0.0)),
    guard=GuardConfig(limit=0.0, weight=1.0),
    smoothness=0.1,
    rescore_particles=8,
)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_plan_is_equal_in_any_batch_and_with_any_threads(threads: int) -> None:
    alone, many = ensemble_planner(EVERYTHING), ensemble_planner(replace(EVERYTHING, threads=threads))
    together, is_first = begin(many, 3)
    single = [take_rows(together, slice(b, b + 1)) for b in range(3)]
    for step in range(2):
        plan, together = many.plan(START, together, is_first, explore=False)
        for b in range(3):
            row = slice(b, b + 1)
            own, single[b] = alone.plan(START[row], single[b], is_first[row], explore=False)
            np.testing.assert_array_equal(plan.actions[row], own.actions)
            for name, values in own.metrics().items():
                np.testing.assert_array_equal(plan.metrics()[name][row], values)
        is_first = np.array([False, step == 1, False])


def gamble(observation: Any, actions: Floats, seeds: Any) -> Floats:
    """Two particles: the return grows with the first action, its spread faster."""
    stake = actions.sum(axis=(-1, -2))
    return np.stack([stake - 2.0 * np.abs(stake), stake + 2.0 * np.abs(stake)], axis=-1).astype(np.float32)


@pytest.mark.parametrize("measure", [MeanStdRisk(weight=1.0), WorstRisk(), CvarRisk(alpha=0.5)])
def test_a_measure_averse_to_risk_declines_a_gamble(measure: Any) -> None:
    for risk, most in ((CEM.risk, None), (measure, 0.6)):
        planner = SamplingPlanner(replace(CEM, risk=risk, iterations=8), LOW, HIGH, gamble)
        plan, _ = planner.plan(np.zeros((1, 2), np.float32), *begin(planner, 1), explore=False)
        stake = float(plan.actions.sum())
        assert stake > 4.0 if most is None else abs(stake) < most


def test_the_second_stage_scores_the_best_candidates_only() -> None:
    calls: list[tuple[str, int]] = []

    def stage(name: str, bonus: float) -> Any:
        def evaluate(observation: Any, actions: Floats, seeds: Any) -> Floats:
            calls.append((name, actions.shape[1]))
            return (bonus - np.abs(actions).sum(axis=(-1, -2)))[..., None].astype(np.float32)

        return evaluate

    config = replace(CEM, iterations=2, rescore_particles=8)
    planner = SamplingPlanner(config, LOW, HIGH, stage("first", 0.0), rescore=stage("second", 5.0))
    plan, _ = planner.plan(np.zeros((2, 2), np.float32), *begin(planner, 2), explore=False)
    assert calls == [("first", 120), ("second", 24), ("first", 120), ("second", 24), ("second", 1)]
    np.testing.assert_allclose(plan.return_mean, 5.0 - np.abs(plan.actions).sum(axis=(-1, -2)), rtol=1e-6)


def test_the_order_of_candidates() -> None:
    scores = np.array([[1.0, 5.0, 3.0, 9.0, np.nan, 2.0]], np.float32)
    excess = np.array([[0.0, 0.2, 0.0, 0.2, 0.0, 0.1]], np.float32)
    verdict = Verdict(excess, excess, excess)
    assert Judged(scores[..., None], scores, verdict).order(6).tolist() == [[2, 0, 5, 3, 1, 4]]
    assert Judged(scores[..., None], scores).order(3).tolist() == [[3, 1, 2]]


def test_smoothness_counts_the_change_from_the_last_action() -> None:
    actions = np.array([[[[0.0, 0.0], [1.0, 0.0]]]], np.float32)  # [1, 1, 2, 2]
    scale = np.array([1.0, 0.5], np.float32)
    last = np.array([[0.0, 2.0]], np.float32)
    assert roughness(actions, last, scale) == pytest.approx((0.0 + 1.0 + 1.0 + 0.0) / 4)
    assert roughness(actions, np.full((1, 2), np.nan, np.float32), scale) == pytest.approx(1.0 / 4)
    rough, smooth = (ensemble_planner(replace(CEM, smoothness=weight)) for weight in (0.0, 5.0))
    changes = []
    for planner in (rough, smooth):
        plan, _ = planner.plan(START, *begin(planner, 3), explore=False)
        changes.append(float((np.diff(plan.actions, axis=1) ** 2).mean()))
    assert changes[1] < 0.5 * changes[0]


def test_disagreement_is_that_of_the_members_means() -> None:
    """Members 0 and 1 end at 0 and 4 (particles 0, 2 and 1, 3); noise within a member does not count."""
    states = np.array([-1.0, 3.0, 1.0, 5.0], np.float32).reshape(1, 4, 1, 1)
    scale = np.array([0.5], np.float32)
    np.testing.assert_allclose(disagreement(states, 2, scale), [1.0])
    np.testing.assert_allclose(disagreement(states, 1, scale), [0.0])
    np.testing.assert_allclose(penalty(GuardConfig(limit=0.4, weight=10.0), disagreement(states, 2, scale)), [6.0])
    assert penalty(GuardConfig(limit=2.0), disagreement(states, 2, scale)) == 0.0


class Split:
    """Two members that disagree about what the second action does, which seems to pay."""

    members, state_scale = 2, np.ones(1, np.float32)

    def __call__(self, observation: Any, actions: Floats, seeds: Any) -> Floats:
        return self.rollouts(observation, actions, seeds).returns

    def rollouts(self, observation: Any, actions: Floats, seeds: Any) -> Rollouts:
        total = np.cumsum(actions[..., 1], axis=-1)
        states = np.stack([total, -total], axis=2)[..., None].astype(np.float32)
        returns = np.repeat(actions[..., 1].sum(axis=-1)[..., None], 2, axis=-1)
        return Rollouts(returns.astype(np.float32), states)


def test_the_guard_keeps_plans_where_the_members_agree() -> None:
    for guard in (None, GuardConfig(limit=0.1, weight=100.0)):
        planner = SamplingPlanner(replace(CEM, guard=guard, iterations=8), LOW, HIGH, Split())
        plan, _ = planner.plan(np.zeros((1, 1), np.float32), *begin(planner, 1), explore=False)
        if guard is None:
            assert plan.actions[..., 1].min() > 0.5
        else:
            assert plan.metrics()["disagreement"] < 0.3
    actions = np.zeros((4, 3, 2), np.float32)
    actions[..., 1] = np.arange(4)[:, None]
    expected = np.quantile(np.arange(4) * 2.0, 0.5)
    assert usual_disagreement(Split(), np.zeros((4, 1), np.float32), actions, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"risk": WorstRisk(part="aleatoric")}, r"planner\.risk\.part aleatoric needs 2 particles per member, 4"),
        ({"constraint": ConstraintConfig(signal=Cost())}, r"planner\.constraint\.signal cost needs a model"),
        ({"constraint": ConstraintConfig(signal=Bounds(index=5))}, "reads number 5 of a state that has 2"),
        ({"rescore_particles": 3}, "planner particles 3 must be a multiple of the 2 members"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_key(change: dict[str, Any], message: str) -> None:
    def plan() -> None:
        planner = ensemble_planner(replace(CEM, **change))
        planner.plan(START, *begin(planner, 3), explore=False)

    with pytest.raises(ValueError, match=message):
        plan()


def test_parts_need_particles_that_keep_their_member() -> None:
    with pytest.raises(ValueError, match=r"risk\.part epistemic .* propagation ts_inf, got ts1"):
        CemConfig(risk=WorstRisk(part="epistemic"), propagation="ts1")


def test_paths_come_with_the_returns_and_count_in_memory() -> None:
    plain, constrained = (EnsembleEvaluator(replace(CEM, constraint=c), 2) for c in (None, WALL))
    for evaluator in (plain, constrained):
        evaluator.update(make_weights())
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 5, 3, 2)).astype(np.float32)
    seeds = np.arange(3, dtype=np.uint64)
    found = constrained.rollouts(START, actions, seeds)
    np.testing.assert_array_equal(found.returns, plain(START, actions, seeds))
    assert found.states is not None
    expected = START[:, None, None] + 0.5 * np.cumsum(actions, axis=2)
    np.testing.assert_allclose(found.states, np.repeat(expected[:, :, None], 2, axis=2), rtol=1e-5, atol=1e-6)
    assert constrained.max_problems < plain.max_problems
