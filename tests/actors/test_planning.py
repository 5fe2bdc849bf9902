"""PlannerPolicy: random before weights, planning after, and the same rows in any batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.carry import leaves, take_rows
from actors.planning import PlannerPolicy
from envs.specs import ArraySpec, EnvSpec, StepBatch
from planners import ensemble as ensemble_module
from planners.config import CemConfig, IcemConfig, MctsConfig
from tests.planners.test_ensemble import make_weights

SPEC = EnvSpec(
    name="point",
    observation={"x": ArraySpec((1,), "float32"), "y": ArraySpec((1, 1), "float64"), "image": ArraySpec((4,), "uint8")},
    action=ArraySpec((2,), "float32", low=(-1.0, -2.0), high=(1.0, 2.0)),
)
LOW, HIGH = SPEC.action.bounds()
CONFIG = CemConfig(horizon=3, population=60, elites=8, iterations=3, precision="fp32")
KEYS = ("x", "y")


def make_step(values: list[tuple[float, float]], is_first: bool = True) -> StepBatch:
    state, count = np.array(values), len(values)
    observation = {
        "x": state[:, :1].astype(np.float32),
        "y": state[:, 1:, None],
        "image": np.zeros((count, 4), np.uint8),
    }
    none = np.zeros(count, np.bool_)
    return StepBatch(observation, np.zeros(count, np.float32), np.full(count, is_first), none, none)


def seeds(count: int) -> NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64)


def test_acts_uniformly_until_there_are_weights() -> None:
    policy = PlannerPolicy(SPEC, KEYS, CONFIG)
    count = 1000
    output = policy.act(make_step([(0.0, 0.0)] * count), policy.initial(seeds(count)), explore=False)
    assert policy.version == 0
    assert set(output.metrics) == {"planning_ms"}
    assert output.action.dtype == np.float32
    np.testing.assert_allclose(output.action.std(axis=0), (HIGH - LOW) / np.sqrt(12.0), rtol=0.05)
    later = policy.act(make_step([(0.0, 0.0)] * count, is_first=False), output.carry, explore=False)
    assert not np.isclose(later.action, output.action).all(axis=1).any()


def test_plans_with_the_named_observations_once_there_are_weights() -> None:
    policy = PlannerPolicy(SPEC, KEYS, CONFIG)
    policy.update(3, make_weights((0.0, 0.1)))
    assert policy.version == 3
    output = policy.act(make_step([(0.3, -0.4), (-0.2, 0.1)]), policy.initial(seeds(2)), explore=False)
    np.testing.assert_allclose(output.action, [[-0.6, 0.8], [0.4, -0.2]], atol=0.3)
    assert set(output.metrics) == {"planning_ms", "return_mean", "return_variance"}
    assert all(values.shape == (2,) and np.isfinite(values).all() for values in output.metrics.values())
    swapped = PlannerPolicy(SPEC, ("y", "x"), CONFIG)
    swapped.update(3, make_weights((0.0, 0.1)))
    other = swapped.act(make_step([(-0.4, 0.3)]), swapped.initial(seeds(1)), explore=False)
    np.testing.assert_array_equal(other.action[0], output.action[0])


def test_older_weights_are_ignored() -> None:
    policy = PlannerPolicy(SPEC, KEYS, CONFIG)
    policy.update(3, make_weights())
    before = policy.act(make_step([(0.3, -0.4)]), policy.initial(seeds(1)), explore=False)
    reversed_actions = make_weights()
    reversed_actions["weight_1"][:, 4:, :2] *= -1.0
    policy.update(2, reversed_actions)
    assert policy.version == 3
    after = policy.act(make_step([(0.3, -0.4)]), policy.initial(seeds(1)), explore=False)
    np.testing.assert_array_equal(after.action, before.action)


@pytest.mark.parametrize("has_weights", [False, True])
def test_a_row_acts_the_same_in_any_batch(has_weights: bool) -> None:
    policy = PlannerPolicy(SPEC, KEYS, IcemConfig(horizon=3, population=60, elites=8), exploration_std=0.1)
    if has_weights:
        policy.update(1, make_weights())
    states = [(0.3, -0.4), (0.1, 0.2), (-0.5, 0.0)]
    carry = policy.initial(seeds(3))
    alone = [take_rows(carry, np.array([i])) for i in range(3)]
    for is_first in (True, False):
        together = policy.act(make_step(states, is_first), carry, explore=True)
        carry = together.carry
        for i in range(3):
            single = policy.act(make_step(states[i : i + 1], is_first), alone[i], explore=True)
            alone[i] = single.carry
            np.testing.assert_array_equal(single.action[0], together.action[i])


def test_more_rows_than_fit_into_memory_are_planned_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = PlannerPolicy(SPEC, KEYS, CONFIG)
    policy.update(1, make_weights((0.0, 0.1)))
    step, carry = make_step([(0.3, -0.4), (0.1, 0.2), (-0.5, 0.0), (0.2, 0.2), (0.0, 0.1)]), policy.initial(seeds(5))
    at_once = policy.act(step, carry, explore=False)
    monkeypatch.setattr(ensemble_module, "_MAX_FLOATS", 2 * 60 * (3 * 2 + 2))
    in_turns = policy.act(step, carry, explore=False)
    np.testing.assert_array_equal(in_turns.action, at_once.action)
    for ours, theirs in zip(leaves(in_turns.carry), leaves(at_once.carry), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(values.shape == (5,) for values in in_turns.metrics.values())


def test_exploration_adds_clipped_noise_in_units_of_the_box() -> None:
    step = make_step([(0.0, 0.0)] * 500)

    def act(exploration_std: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Actions without and with noise, and with noise one step later."""
        policy = PlannerPolicy(SPEC, KEYS, CONFIG, exploration_std)
        policy.update(1, make_weights())
        carry = policy.initial(seeds(500))
        explored = policy.act(step, carry, explore=True)
        later = policy.act(step, explored.carry, explore=True)
        return policy.act(step, carry, explore=False).action, explored.action, later.action

    planned, explored, later = act(0.1)
    assert (np.abs(planned) < 0.6 * HIGH).all()  # there is room for the noise
    np.testing.assert_allclose((explored - planned).std(axis=0), [0.1, 0.2], rtol=0.1)
    assert not np.isclose(later, explored).all(axis=1).any()
    _, wild, _ = act(10.0)
    assert (wild >= LOW).all()
    assert (wild <= HIGH).all()
    assert (np.abs(wild) == HIGH).any()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (ArraySpec((), "int64", num_values=5), "not one of 5 discrete"),
        (ArraySpec((2,), "float32"), "bounded"),
    ],
)
def test_refuses_actions_without_a_box(action: ArraySpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlannerPolicy(replace(SPEC, action=action), KEYS, CONFIG)


@pytest.mark.parametrize("config", [CONFIG, IcemConfig(horizon=3, population=40, elites=4, iterations=2)])
def test_a_fixed_dimension_keeps_its_value(config: CemConfig | IcemConfig) -> None:
    spec = replace(SPEC, action=ArraySpec((2,), "float32", (-1.0, 0.1), (1.0, 0.1)))
    policy = PlannerPolicy(spec, KEYS, config, exploration_std=0.5)
    carry = policy.initial(seeds(2))
    for version in (0, 1):
        if version:
            policy.update(version, make_weights())
        output = policy.act(make_step([(0.0, 0.0), (1.0, 1.0)]), carry, explore=True)
        assert (output.action[:, 1] == np.float32(0.1)).all()
        assert np.isfinite(output.action).all()
        assert len(set(output.action[:, 0].tolist())) == 2


def test_a_range_that_overflows_is_refused_by_the_environments_name() -> None:
    wide = replace(SPEC, action=ArraySpec((2,), "float32", (-1.0, -3e38), (1.0, 3e38)))
    with pytest.raises(ValueError, match=r"dimension 1 of the action of point is in .*overflows float32"):
        PlannerPolicy(wide, KEYS, CONFIG)


def test_refuses_a_search_that_an_ensemble_cannot_serve() -> None:
    with pytest.raises(ValueError, match="max_depth must be at least 1 for ensembles"):
        PlannerPolicy(SPEC, KEYS, MctsConfig())


def test_refuses_unknown_observations_and_negative_noise() -> None:
    with pytest.raises(ValueError, match="lidar"):
        PlannerPolicy(SPEC, ("x", "lidar"), CONFIG)
    with pytest.raises(ValueError, match=r"exploration_std.*-0\.1"):
        PlannerPolicy(SPEC, KEYS, CONFIG, exploration_std=-0.1)
