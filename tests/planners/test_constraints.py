"""Constraints on literal paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.nav3d.layout import BODY_RADIUS, FIXED_LAYOUT
from planners.base import Rollouts
from planners.constraint_config import Bounds, Clearance, ConstraintConfig, Cost, TimeToCollision
from planners.constraints import clearance, judge, margins, state_margins, time_to_collision

LANE = Bounds(index=1, least=-2.0, most=2.0)


def test_clearance_of_each_shape() -> None:
    points = np.array([[3.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 3.0, 4.0]], np.float32)
    sphere = clearance(Clearance(spheres=((0.0, 0.0, 0.0, 1.0),), margin=0.5), points)
    np.testing.assert_allclose(sphere, [1.5, -1.0, 3.5])
    box = clearance(Clearance(boxes=((0.0, 0.0, 0.0, 1.0, 1.0, 1.0),)), points)
    np.testing.assert_allclose(box, [2.0, -0.5, np.sqrt(4.0 + 9.0)], rtol=1e-6)
    pillar = clearance(Clearance(pillars=((0.0, 0.0, 0.0, 1.0, 1.0, 2.0),)), points)
    np.testing.assert_allclose(pillar, [2.0, -0.5, np.sqrt(4.0 + 4.0)], rtol=1e-6)
    room = clearance(Clearance(low=(-5.0, -5.0, 0.0), high=(5.0, 5.0, 3.5)), points)
    np.testing.assert_allclose(room, [0.0, 0.0, -0.5])


def test_clearance_agrees_with_the_layout_of_nav3d() -> None:
    from cluster.bench.planner_study import nav3d_clearance

    signal = nav3d_clearance(0.1)
    points = np.random.default_rng(0).uniform((-5, -5, 0), (5, 5, 4), (400, 3))
    own = clearance(signal, points.astype(np.float32))
    free = np.array([FIXED_LAYOUT.is_free(p, 0.1) and FIXED_LAYOUT.distance_to_hazards(p) >= 0.1 for p in points])
    clear = np.abs(own) > 1e-4
    np.testing.assert_array_equal((own > 0)[clear], free[clear])
    assert signal.margin > BODY_RADIUS


def test_time_to_collision() -> None:
    gap = np.array([10.0, 10.0, 0.0, -1.0, np.nan], np.float32)
    closing = np.array([5.0, -1.0, -1.0, 2.0, 1.0], np.float32)
    np.testing.assert_allclose(time_to_collision(gap, closing), [2.0, 1e6, 0.0, 0.0, np.nan])
    states = np.array([[10.0, 5.0], [10.0, 20.0]], np.float32)
    np.testing.assert_allclose(state_margins(TimeToCollision(least=1.5), states), [0.5, -1.0])


def paths(*offsets: list[float]) -> np.ndarray[Any, Any]:
    """Margins [P, H] of particles with these lane offsets."""
    states = np.stack([np.array([[0.0, y] for y in particle], np.float32) for particle in offsets])
    return margins(LANE, Rollouts(np.zeros(1, np.float32), states))


def test_chance() -> None:
    margin = paths([0.0, 1.0, 3.0], [0.0, 1.0, 1.0], [0.0, 2.5, 0.0], [0.0, 0.0, 0.0])
    verdict = judge(ConstraintConfig(signal=LANE, limit=0.4), margin)
    assert verdict.probability == 0.5
    assert verdict.first_step == 3.0  # 0.25 by step 2, 0.5 by step 3
    assert verdict.excess == pytest.approx(0.1 + (1.0 + 0.5) / 12)
    assert judge(ConstraintConfig(signal=LANE, limit=0.2), margin).first_step == 2.0
    allowed = judge(ConstraintConfig(signal=LANE, limit=0.5), margin)
    assert (float(allowed.excess), float(allowed.first_step)) == (0.0, 3.0)


def test_cvar_is_the_mean_of_the_deepest_violations() -> None:
    margin = paths([0.0, 4.0, 3.0], [0.0, 2.0, 2.0], [0.0, 2.5, 0.0], [0.0, 0.0, 0.0])
    verdict = judge(ConstraintConfig(signal=LANE, form="cvar", alpha=0.5, limit=0.25), margin)
    assert verdict.excess == pytest.approx((2.0 + 0.5) / 2 - 0.25)
    assert verdict.first_step == 2.0
    assert verdict.probability == 0.5
    assert judge(ConstraintConfig(signal=LANE, form="cvar", alpha=0.5, limit=2.0), margin).excess == 0.0


@pytest.mark.parametrize("form", ["chance", "cvar"])
def test_a_path_that_is_not_finite_is_no_plan(form: Any) -> None:
    verdict = judge(ConstraintConfig(signal=LANE, form=form), paths([0.0, np.nan, 0.0], [0.0, 0.0, 0.0]))
    assert np.isnan(verdict.excess)


def test_costs_that_the_model_predicts() -> None:
    costs = np.array([0.0, 1.0], np.float32)
    np.testing.assert_array_equal(margins(Cost(), Rollouts(costs, None, costs)), [0.5, -0.5])
    with pytest.raises(ValueError, match=r"planner\.constraint\.signal cost needs a model that predicts cost"):
        margins(Cost(), Rollouts(costs))
    with pytest.raises(ValueError, match=r"planner\.constraint\.signal bounds needs a model that predicts states"):
        margins(LANE, Rollouts(costs))


@pytest.mark.parametrize(
    ("signal", "index"),
    [
        (Bounds(index=4), 4),
        (Clearance(position=(0, 1, 7), low=(0, 0, 0), high=(1, 1, 1)), 7),
        (TimeToCollision(gap=3), 3),
    ],
)
def test_an_index_outside_the_state_is_refused(signal: Any, index: int) -> None:
    with pytest.raises(ValueError, match=f"reads number {index} of a state that has 3"):
        state_margins(signal, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clearance(), "clearance needs spheres"),
        (lambda: Clearance(low=(0.0,), high=(1.0,)), "low and high must have 3 numbers"),
        (lambda: ConstraintConfig(form="chance", limit=1.0), "limit of a chance must be below 1, got 1"),
        (lambda: ConstraintConfig(alpha=0.0), "alpha must be greater than 0, got 0"),
        (lambda: TimeToCollision(least=-1.0), "least must be greater than 0"),
    ],
)
def test_bad_configurations_are_refused_by_key(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
