"""Tree search over ensembles: it plans, scores add up along paths, and disagreement attracts or repels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from planners.config import MctsConfig
from planners.ensemble import EnsembleModel
from planners.ensemble_tree import EnsembleTreeModel
from planners.factory import make_planner
from planners.tree import TreePlanner
from tests.planners.test_ensemble import HIGH, LOW, Weights, make_weights

CONFIG = MctsConfig(simulations=60, selection="puct", max_depth=3, sampled_actions=8, gamma=0.9)


def planner_of(config: MctsConfig, weights: Weights) -> TreePlanner:
    model = EnsembleModel(LOW, HIGH)
    planner = make_planner(config, model, LOW, HIGH)
    model.update(weights)
    assert isinstance(planner, TreePlanner)
    return planner


def plan(config: MctsConfig, weights: Weights, state: np.ndarray) -> Any:
    planner = planner_of(config, weights)
    carry = planner.initial(np.arange(len(state), dtype=np.uint64))
    return planner.plan(state, carry, np.ones(len(state), np.bool_), explore=False)[0]


def disagreeing(strength: float) -> Weights:
    """Two members, whose rewards are `strength` more and less for every unit of the first action above 0."""
    weights = make_weights((0.0, 0.0))
    weights["weight_1"][:, 4, 2] += np.array([strength, -strength], np.float32)  # relu(a_0)
    return weights


def test_acts_towards_the_optimum_of_the_model() -> None:
    state = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], np.float32)
    found = plan(CONFIG, make_weights(), state)
    assert (np.abs(state + 0.5 * found.action).sum(-1) < np.abs(state).sum(-1) - 0.1).all()
    assert (np.abs(found.actions) <= 1.0).all()
    assert found.depth.max() <= 3


def test_a_plan_is_the_same_alone_or_in_a_batch() -> None:
    states = np.array([[1.0, 1.0], [-1.0, 0.5]], np.float32)
    together, alone = plan(CONFIG, make_weights((0.0, 0.3)), states), plan(CONFIG, make_weights((0.0, 0.3)), states[:1])
    assert_array_equal(together.action[:1], alone.action)
    assert_array_equal(together.visits[:1], alone.visits)


def test_rewards_of_a_path_add_up_to_its_score() -> None:
    model = EnsembleTreeModel(replace(CONFIG, uncertainty=0.5), LOW, HIGH)
    model.update(make_weights((0.0, 0.2)))
    node = model.root(np.array([[1.0, 0.0]], np.float32), np.array([7], np.uint64))
    total, scale = 0.0, 1.0
    for action in ([-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]):
        node, reward, continuation = model.step(node, torch.tensor([action]), torch.zeros(1, 16))
        assert continuation.tolist() == [1.0]
        total, scale = total + scale * float(reward), scale * 0.9
    # Rewards of the states before: -1, -0.5, -0.5 and a mean of 0.1 of the members, who are 0.1 apart from it a step.
    means = np.array([-0.9, -0.4, -0.4])
    steps = np.array([1.0, 0.9, 0.81])
    assert total == pytest.approx((steps * means).sum() + 0.5 * (steps * 0.1).sum(), rel=1e-4)
    assert float(node.score) == pytest.approx(total, rel=1e-4)
    assert float(model.expand(node, torch.zeros(1, 16)).value) == 0.0  # the horizon is reached


def test_a_leaf_is_worth_repeating_its_last_action() -> None:
    model = EnsembleTreeModel(CONFIG, LOW, HIGH)
    model.update(make_weights())
    root = model.root(np.array([[2.0, 0.0]], np.float32), np.array([7], np.uint64))
    found = model.expand(root, torch.full((1, 16), 0.25))
    assert_allclose(found.value, [-2.0 * (1 + 0.9 + 0.81)], rtol=1e-5)  # the middle of the box stays where it is
    assert_allclose(found.actions, np.full((1, 8, 2), -0.5))
    node, _, _ = model.step(root, torch.tensor([[-1.0, 0.0]]), torch.zeros(1, 16))
    assert_allclose(model.expand(node, torch.zeros(1, 16)).value, [-1.5 - 0.9 * 1.0], rtol=1e-5)


def test_disagreement_attracts_above_0_and_repels_below() -> None:
    state, weights = np.zeros((4, 2), np.float32), disagreeing(2.0)
    bold = plan(replace(CONFIG, uncertainty=3.0), weights, state).action[:, 0]
    careful = plan(replace(CONFIG, uncertainty=-3.0), weights, state).action[:, 0]
    assert (bold > 0.0).all()
    assert bold.mean() > careful.mean() + 0.3
    for weight in (3.0, -3.0):
        model = EnsembleTreeModel(replace(CONFIG, uncertainty=weight), LOW, HIGH)
        model.update(weights)
        root = model.root(state[:1], np.array([7], np.uint64))
        assert model.step(root, torch.tensor([[0.5, 0.0]]), torch.zeros(1, 16))[1].tolist() == pytest.approx([weight])
    calm = replace(CONFIG, uncertainty=0.0)
    assert_array_equal(plan(calm, weights, state).action, plan(calm, disagreeing(0.0), state).action)


def test_refuses_what_an_ensemble_cannot_serve() -> None:
    with pytest.raises(ValueError, match=r"planner\.max_depth must be at least 1 for ensembles"):
        EnsembleModel(LOW, HIGH).tree(replace(CONFIG, max_depth=0))
    with pytest.raises(ValueError, match="proposal_temperature must be 1 for ensembles"):
        EnsembleModel(LOW, HIGH).tree(replace(CONFIG, proposal_temperature=2.0))
    with pytest.raises(ValueError, match="takes 2 actions, the box has 1"):
        EnsembleTreeModel(CONFIG, LOW[:1], HIGH[:1]).update(make_weights())
    with pytest.raises(ValueError, match=r"planner\.uncertainty must be 0 for muzero"):
        replace(CONFIG, uncertainty=1.0).check_one_model("muzero")
