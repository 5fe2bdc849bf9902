"""SearchPolicy: random before weights, then what the search finds, stored with the step; the same rows in any batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from actors.carry import concatenate_rows, take_rows
from actors.rollout import RolloutConfig, RolloutLoop
from actors.search_policy import SearchPolicy
from actors.searched_model import SearchedModel
from envs.specs import EnvSpec, StepBatch
from envs.testing.counter import COUNTER_SPEC, CounterVectorEnv
from learner.models.muzero import Latent, MuZeroModel
from learner.searched import SEARCH_ACTIONS, SEARCH_POLICY, SEARCH_VALUE
from planners.config import CemConfig, MctsConfig
from planners.tree import TreePlanner
from tests.learner.muzeros import NAMES, SAMPLES, SPECS, make, randomise_heads, tiny

PUCT = MctsConfig(selection="puct", simulations=6, dirichlet_fraction=0.25, action_temperature=((0, 1.0),))
GUMBEL = MctsConfig(selection="gumbel", simulations=6, gumbel_scale=1.0)


def planner_of(name: str) -> MctsConfig:
    return replace(PUCT, sampled_actions=SAMPLES) if name == "sampled_muzero" else PUCT


def policy_of(name: str, version: int = 1, planner: MctsConfig | None = None, **options: Any) -> SearchPolicy:
    """A policy with the weights of an untrained algorithm whose predictions depend on the state."""
    policy = SearchPolicy(SPECS[name], tiny(name), planner or planner_of(name), **options)
    if version:
        algorithm = make(tiny(name))
        randomise_heads(algorithm, scale=0.1)
        policy.update(version, algorithm.export_weights())
    return policy


def seeds(count: int, start: int = 0) -> NDArray[np.uint64]:
    return np.arange(start, start + count, dtype=np.uint64)


def step_of(rows: int, seed: int = 0) -> StepBatch:
    state = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    none = np.zeros(rows, np.bool_)
    return StepBatch({"state": state}, np.zeros(rows, np.float32), none, none, none)


@pytest.mark.parametrize("name", NAMES)
def test_random_until_there_are_weights_and_then_nothing_to_imitate(name: str) -> None:
    policy = policy_of(name, version=0, priorities=True)
    output = policy.act(step_of(5), policy.initial(seeds(5)), explore=True)
    assert {key: (value.shape[1:], str(value.dtype)) for key, value in output.extras.items()} == {
        key: (spec.shape, spec.dtype) for key, spec in policy.extras.items()
    }
    assert not any(value.any() for value in output.extras.values())
    assert output.priority is not None
    assert output.priority.tolist() == [1.0] * 5


@pytest.mark.parametrize("name", NAMES)
def test_a_search_is_stored_with_its_step(name: str) -> None:
    policy, step = policy_of(name, priorities=True), step_of(4)
    carry = policy.initial(seeds(4))
    output = policy.act(step, carry, explore=False)
    latent = policy._model.represent({"state": torch.from_numpy(step.observation["state"])})
    plan, _ = TreePlanner(planner_of(name), policy._tree).plan(latent, carry.tree, step.is_first, explore=False)
    np.testing.assert_array_equal(output.extras[SEARCH_POLICY], plan.weights)
    np.testing.assert_array_equal(output.extras[SEARCH_VALUE], plan.value)
    np.testing.assert_allclose(plan.weights.sum(1), 1.0, rtol=1e-6)
    assert (SEARCH_ACTIONS in output.extras) == (name == "sampled_muzero")
    best = plan.weights.argmax(1)
    if name == "sampled_muzero":
        np.testing.assert_array_equal(output.extras[SEARCH_ACTIONS], plan.actions)
        np.testing.assert_allclose(output.action, plan.actions[np.arange(4), best], rtol=1e-6)
    else:
        np.testing.assert_array_equal(output.action, best)
        assert output.action.dtype == np.int64
    predicted = policy._model.predict(latent.state)[1].mean.numpy()
    np.testing.assert_allclose(output.priority, np.abs(plan.value - predicted), rtol=1e-5)
    assert output.metrics.keys() >= {"return_mean", "tree_depth", "policy_entropy", "planning_ms"}


@pytest.mark.parametrize("planner", [PUCT, GUMBEL], ids=["puct", "gumbel"])
def test_evaluation_is_without_noise_and_exploration_with(planner: MctsConfig) -> None:
    policy, step = policy_of("muzero", planner=planner), step_of(64)
    step = replace(step, observation={"state": np.repeat(step.observation["state"][:1], 64, 0)})
    quiet = policy.act(step, policy.initial(seeds(64)), explore=False)
    assert len({tuple(row) for row in quiet.extras[SEARCH_POLICY].tolist()}) == 1
    assert len(set(quiet.action.tolist())) == 1
    loud = policy.act(step, policy.initial(seeds(64)), explore=True)
    assert len(set(loud.action.tolist())) > 1


@pytest.mark.parametrize("name", ["muzero", "sampled_muzero"])
def test_rows_do_not_depend_on_their_batch(name: str) -> None:
    policy, step = policy_of(name), step_of(5)
    whole = policy.act(step, policy.initial(seeds(5)), explore=True)
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        carry = take_rows(policy.initial(seeds(5)), rows)
        parts.append(policy.act(step.take(np.arange(5)[rows]), carry, explore=True))
    np.testing.assert_allclose(whole.action, np.concatenate([part.action for part in parts]), rtol=1e-5)
    joined = concatenate_rows([part.carry for part in parts])
    np.testing.assert_array_equal(whole.carry.tree.step, joined.tree.step)
    again = policy.act(step, whole.carry, explore=True)
    assert not np.array_equal(again.extras[SEARCH_POLICY], whole.extras[SEARCH_POLICY])


def test_of_drawn_ids_the_ids_are_stored() -> None:
    policy, step = policy_of("muzero", planner=replace(PUCT, sampled_actions=2)), step_of(8)
    output = policy.act(step, policy.initial(seeds(8)), explore=False)
    ids, weights = output.extras[SEARCH_ACTIONS], output.extras[SEARCH_POLICY]
    assert ids.shape == weights.shape == (8, 2)
    assert ids.dtype == np.int64
    assert set(ids.flatten().tolist()) <= {-1, 0, 1, 2}
    assert not weights[ids < 0].any()
    np.testing.assert_array_equal(output.action, ids[np.arange(8), weights.argmax(1)])


def test_the_temperature_is_that_of_the_weights_update() -> None:
    """From update 5 on the most visited action is taken; noise at the root apart, all rows then do the same."""
    planner = replace(PUCT, dirichlet_fraction=0.0, action_temperature=((0, 1.0), (5, 0.0)))
    step = step_of(64)
    step = replace(step, observation={"state": np.repeat(step.observation["state"][:1], 64, 0)})
    chosen = []
    for version in (4, 5):
        policy = policy_of("muzero", version, planner)
        chosen.append(len(set(policy.act(step, policy.initial(seeds(64)), explore=True).action.tolist())))
    assert chosen[0] > chosen[1] == 1


def test_trees_may_be_looked_at_and_used_again() -> None:
    """With `reuse_subtree` the second search begins with what lies below the action taken."""
    policy, step = policy_of("muzero", planner=replace(PUCT, reuse_subtree=True)), step_of(3)
    first = policy.act(step, policy.initial(seeds(3)), explore=False)
    assert [len(tree.parent) for tree in policy.trees()] == [PUCT.simulations + 1] * 3
    np.testing.assert_array_equal([tree.best for tree in policy.trees()], first.action)
    second = policy.act(step, first.carry, explore=False)
    fresh = policy.act(step, policy.initial(seeds(3)), explore=False)
    assert not np.array_equal(second.extras[SEARCH_VALUE], fresh.extras[SEARCH_VALUE])
    again = policy.act(replace(step, is_first=np.ones(3, np.bool_)), first.carry, explore=False)
    np.testing.assert_allclose(again.extras[SEARCH_VALUE], fresh.extras[SEARCH_VALUE], rtol=1e-6)
    assert policy_of("muzero", version=0).trees() == []


def test_weights_are_replaced_by_newer_ones_alone() -> None:
    policy, step = policy_of("efficientzero", version=3), step_of(3)
    carry = policy.initial(seeds(3))
    before = policy.act(step, carry, explore=False).extras[SEARCH_VALUE]
    other = make(tiny("efficientzero"), seed=9)
    randomise_heads(other, seed=9)
    policy.update(3, other.export_weights())
    np.testing.assert_array_equal(policy.act(step, carry, explore=False).extras[SEARCH_VALUE], before)
    policy.update(4, other.export_weights())
    assert not np.array_equal(policy.act(step, carry, explore=False).extras[SEARCH_VALUE], before)


@pytest.mark.parametrize(("spec", "name"), [(SPECS[name], name) for name in ("muzero", "sampled_muzero")])
def test_a_rollout_stores_the_searches(spec: EnvSpec, name: str) -> None:
    counter = replace(COUNTER_SPEC, action=spec.action)
    policy = SearchPolicy(counter, tiny(name), planner_of(name), priorities=True)
    policy.update(1, make(tiny(name), counter).export_weights())
    env = CounterVectorEnv(2)
    env.spec = counter
    env.step = lambda actions, step=env.step: step(np.zeros((2, *COUNTER_SPEC.action.shape), np.float32))  # type: ignore[method-assign, misc]
    blocks = RolloutLoop(env, policy, seed=0, config=RolloutConfig()).collect(64).blocks
    assert len(blocks) == 2
    for block in blocks:
        assert block.data.keys() >= policy.extras.keys()
        np.testing.assert_allclose(block.data[SEARCH_POLICY].sum(1), 1.0, rtol=1e-6)
        assert block.priority is not None
        assert np.isfinite(block.priority).all()


def test_the_search_sees_the_model_and_its_discount() -> None:
    model = MuZeroModel(tiny("muzero").model, SPECS["muzero"])
    tree = SearchedModel(model, 0.9, 7)
    assert (tree.num_actions, tree.num_draws) == (3, 0)
    with torch.no_grad():
        latent = model.represent({"state": torch.randn(2, 4)})
        following, reward, discount = tree.step(latent, torch.eye(3)[:2], torch.zeros(2, 0))
        found = tree.expand(following, torch.zeros(2, 0))
    assert discount.tolist() == pytest.approx([0.9, 0.9])
    assert reward.shape == found.value.shape == (2,)
    torch.testing.assert_close(found.logits.exp().sum(1), torch.ones(2))
    assert found.actions is None


def test_rewards_of_a_search_are_differences_of_the_value_prefix() -> None:
    """Through a horizon of two steps: the sum begins anew after it, and the memory with it."""
    config = tiny("efficientzero")
    prefix = replace(config.network.prefix, horizon=2)  # type: ignore[type-var]
    config = replace(config, network=replace(config.network, prefix=prefix))
    algorithm = make(config)
    randomise_heads(algorithm)
    tree = SearchedModel(algorithm.model, 0.9, 1)
    sums, rewards = [], []
    with torch.no_grad():
        latent = algorithm.model.represent({"state": torch.randn(2, 4)})
        states = [latent.state]
        for action in (0, 1, 2):
            taken = torch.eye(3)[[action, action]]
            sums.append(algorithm.model.step(latent, taken)[1].mean)
            latent, reward, _ = tree.step(latent, taken, torch.zeros(2, 0))
            states.append(latent.state)
            rewards.append(reward)
        fresh = Latent(states[2], algorithm.model.reward.initial(states[2]))
        anew = algorithm.model.step(fresh, torch.eye(3)[[2, 2]])[1].mean
    torch.testing.assert_close(rewards[0], sums[0])
    torch.testing.assert_close(rewards[1], sums[1] - sums[0])
    torch.testing.assert_close(rewards[2], anew)
    assert not torch.equal(sums[0], sums[1])


def test_samples_of_a_box_stay_inside_it() -> None:
    policy, step = policy_of("sampled_muzero"), step_of(16)
    output = policy.act(step, policy.initial(seeds(16)), explore=True)
    assert np.abs(output.extras[SEARCH_ACTIONS]).max() <= 1.0
    assert len(np.unique(output.extras[SEARCH_ACTIONS])) > 16 * SAMPLES
    assert output.action.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "planner", "options", "message"),
    [
        ("muzero", CemConfig(), {}, "muzero acts by tree search: planner.method must be mcts, got cem"),
        ("muzero", PUCT, {"observation_keys": ("pixels",)}, "unknown observation key 'pixels'"),
    ],
)
def test_refuses_what_cannot_be_searched(name: str, planner: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchPolicy(SPECS[name], tiny(name, **options), planner)
