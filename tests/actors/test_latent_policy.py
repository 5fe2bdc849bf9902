"""LatentPolicy: random before weights, then the algorithm's own states and actions, the same rows in any batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from actors.carry import concatenate_rows, leaves, take_rows, with_leaves
from actors.latent_policy import LatentCarry, LatentPolicy
from actors.rollout import RolloutConfig, RolloutLoop
from envs.specs import ArraySpec, EnvSpec, StepBatch
from envs.testing.counter import COUNTER_SPEC, CounterVectorEnv
from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import DreamerConfig
from learner.batch import SequenceBatch
from learner.models.rssm import LATENT_KEYS, State
from planners.config import CemConfig, MctsConfig, MppiConfig
from planners.noise import RandomCarry, RowGenerator
from tests.learner.dreamers import DISCRETE, IMAGE, NAMES, SPEC, batches, make, tiny

PLANNER = CemConfig(horizon=3, population=24, elites=4, iterations=2)
FIXED = replace(SPEC, action=ArraySpec((2,), "float32", (-1.8, 0.1), (0.2, 0.1)))
SKEWED = replace(SPEC, action=ArraySpec((2,), "float32", (-1.8, 0.7), (0.2, 1.9)))


def policy_of(config: DreamerConfig, spec: EnvSpec = SPEC, version: int = 1, sharp: bool = False) -> LatentPolicy:
    """A policy with the weights of an untrained algorithm; `sharp` ones make its actions depend on the state."""
    policy = LatentPolicy(spec, config, PLANNER)
    if version:
        policy.update(version, weights_of(config, spec, sharp))
    return policy


def weights_of(config: DreamerConfig, spec: EnvSpec = SPEC, sharp: bool = False, seed: int = 0) -> dict[str, Any]:
    weights = make(config, spec, seed).export_weights()
    if sharp and config.behaviour is not None:
        weights["policy.out.weight"] = np.random.default_rng(0).normal(size=weights["policy.out.weight"].shape)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def seeds(count: int, start: int = 0) -> NDArray[np.uint64]:
    return np.arange(start, start + count, dtype=np.uint64)


def steps(spec: EnvSpec, rows: int, count: int, first: int = 0, seed: int = 0) -> list[StepBatch]:
    """Steps of random observations; all rows start an episode at step `first`."""
    rng = np.random.default_rng(seed)
    made = []
    for t in range(count):
        observation: dict[str, NDArray[Any]] = {"state": rng.normal(size=(rows, 4)).astype(np.float32)}
        if "image" in spec.observation:
            observation["image"] = rng.integers(0, 256, (rows, *spec.observation["image"].shape), dtype=np.uint8)
        none = np.zeros(rows, np.bool_)
        made.append(StepBatch(observation, np.zeros(rows, np.float32), np.full(rows, t == first), none, none))
    return made


def follow(policy: LatentPolicy, made: list[StepBatch], carry: LatentCarry, explore: bool = True) -> list[Any]:
    """The outputs of consecutive steps."""
    outputs = []
    for step in made:
        outputs.append(policy.act(step, carry, explore))
        carry = outputs[-1].carry
    return outputs


@pytest.mark.parametrize("spec", [SKEWED, DISCRETE], ids=["box", "ids"])
def test_acts_with_random_actions_until_there_are_weights(spec: EnvSpec) -> None:
    policy = policy_of(tiny("dreamer_v3", first_actions="random"), spec, version=0)
    one, two = follow(policy, steps(spec, 3000, 2), policy.initial(seeds(3000)), explore=False)
    assert one.action.dtype == np.dtype(spec.action.dtype)
    if spec.action.is_discrete:
        np.testing.assert_allclose(np.bincount(one.action, minlength=3) / 3000, 1 / 3, atol=0.04)
    else:
        low, high = spec.action.bounds()
        np.testing.assert_allclose(one.action.mean(0), (low + high) / 2, atol=0.04)
        np.testing.assert_allclose(one.action.std(0), (high - low) / np.sqrt(12.0), rtol=0.05)
    assert not np.array_equal(one.action, two.action)
    assert not one.extras["latent_deter"].any()  # no state is known yet


@pytest.mark.parametrize("spec", [SPEC, IMAGE], ids=["box", "image"])
def test_acts_with_the_learners_first_weights_until_there_are_others(spec: EnvSpec) -> None:
    """Also where the run never trains before: the states that are stored are those of a model, not zeros."""
    config = tiny("dreamer_v3")
    assert config.first_actions == "policy"
    untrained = LatentPolicy(spec, config, PLANNER, seed=7)
    given = LatentPolicy(spec, config, PLANNER, seed=3)
    given.update(1, make(config, spec, seed=7).export_weights())
    made = steps(spec, 5, 3)
    for one, two in zip(
        *(follow(policy, made, policy.initial(seeds(5))) for policy in (untrained, given)), strict=True
    ):
        np.testing.assert_array_equal(one.action, two.action)
        for key in LATENT_KEYS:
            np.testing.assert_array_equal(one.extras[key], two.extras[key])
    assert one.extras["latent_deter"].any()
    assert untrained.version == 0


def test_the_presets_begin_as_their_references() -> None:
    begins = {name: tiny(name).first_actions for name in NAMES}
    assert begins == {"dreamer_v1": "random", "dreamer_v2": "random", "dreamer_v3": "policy", "planet": "random"}


@pytest.mark.parametrize("name", [*NAMES, "plan2explore"])
@pytest.mark.parametrize("spec", [SPEC, SKEWED, DISCRETE, IMAGE], ids=["box", "skewed", "ids", "image"])
def test_outputs_fit_the_environment_and_the_policys_extras(name: str, spec: EnvSpec) -> None:
    if name == "planet" and spec is DISCRETE:
        with pytest.raises(ValueError, match="ids"):
            policy_of(tiny(name), spec)
        return
    config = tiny(name, exploration_noise=2.0)
    policy = policy_of(config, spec)
    for explore in (True, False):
        for output in follow(policy, steps(spec, 7, 3), policy.initial(seeds(7)), explore):
            assert output.action.shape == (7, *spec.action.shape)
            assert output.action.dtype == np.dtype(spec.action.dtype)
            if spec.action.is_discrete:
                assert set(output.action.tolist()) <= {0, 1, 2}
            else:
                low, high = spec.action.bounds()
                assert ((output.action >= low) & (output.action <= high)).all()
            assert output.extras.keys() == policy.extras.keys() == (set(LATENT_KEYS) if config.store_latents else set())
            for key, extra in policy.extras.items():
                assert output.extras[key].shape == (7, *extra.shape)
                assert output.extras[key].dtype == np.dtype(extra.dtype)
            assert (output.metrics.keys() == {"return_mean", "return_variance"}) == (name == "planet")


@pytest.mark.parametrize("name", [*NAMES, "mppi", "mcts"])
def test_a_fixed_dimension_keeps_its_value_in_training_and_acting(name: str) -> None:
    mppi, mcts = MppiConfig(horizon=3, population=24, iterations=2), MctsConfig(simulations=4)
    planner: Any = {"mppi": mppi, "mcts": mcts}.get(name)
    config = tiny("dreamer_v3", acting="planner") if planner else tiny(name)
    algorithm = make(config, FIXED)
    for batch in batches(config, FIXED)[:2]:
        batch.data["action"][..., 1] = 0.1
        assert all(np.isfinite(value) for value in algorithm.update(batch).metrics.values())
    policy = LatentPolicy(FIXED, config, planner or PLANNER)
    for version in (0, 1):
        if version:
            policy.update(version, algorithm.export_weights())
        for output in follow(policy, steps(FIXED, 3, 2), policy.initial(seeds(3))):
            assert (output.action[:, 1] == np.float32(0.1)).all()
            assert np.isfinite(output.action).all()
            assert not output.carry.action[:, 1].any()


def test_actions_of_which_every_dimension_is_fixed_leave_a_policy_nothing_to_choose() -> None:
    fixed = replace(SPEC, action=ArraySpec((2,), "float32", (0.5, 0.1), (0.5, 0.1)))
    with pytest.raises(ValueError, match="every dimension of the action is fixed"):
        LatentPolicy(fixed, tiny("dreamer_v3"), PLANNER)


def test_extras_are_the_state_behind_the_observation() -> None:
    policy = policy_of(tiny("dreamer_v3"))
    for output in follow(policy, steps(SPEC, 5, 3), policy.initial(seeds(5))):
        np.testing.assert_array_equal(output.extras["latent_deter"], output.carry.deter.astype(np.float16))
        np.testing.assert_array_equal(np.eye(4)[output.extras["latent_stoch"]].reshape(5, -1), output.carry.stoch)
    gaussian = tiny("dreamer_v3")
    policy = policy_of(replace(gaussian, rssm=replace(gaussian.rssm, latent="gaussian")))
    output = follow(policy, steps(SPEC, 5, 2), policy.initial(seeds(5)))[-1]
    assert policy.extras["latent_stoch"] == ArraySpec((4,), "float16")
    np.testing.assert_allclose(output.extras["latent_stoch"], output.carry.stoch, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("name", ["dreamer_v1", "dreamer_v2", "dreamer_v3"])
@pytest.mark.parametrize("spec", [SPEC, DISCRETE], ids=["box", "ids"])
def test_a_row_acts_the_same_in_any_batch(name: str, spec: EnvSpec, explore: bool) -> None:
    policy = policy_of(tiny(name), spec, sharp=True)
    made, carry = steps(spec, 6, 4), policy.initial(seeds(6))
    together = follow(policy, made, carry, explore)
    mixed = np.array([4, 1])
    for index in (np.array([3]), mixed, slice(2, 5)):
        alone = follow(policy, [step.take(index) for step in made], take_rows(carry, index), explore)
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(one.action, all_.action[index], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one.carry.deter, all_.carry.deter[index], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(one.carry.random.state, all_.carry.random.state[index])


@pytest.mark.parametrize("name", ["dreamer_v3", "planet"])
def test_a_carry_survives_cutting_joining_and_saving(name: str) -> None:
    policy = policy_of(tiny(name))
    made = steps(SPEC, 4, 3)
    carry = follow(policy, made[:2], policy.initial(seeds(4)))[-1].carry
    joined = concatenate_rows([take_rows(carry, slice(0, 1)), take_rows(carry, np.array([1, 2, 3]))])
    loaded = with_leaves(policy.initial(seeds(4, 50)), leaves(carry))
    expected = policy.act(made[2], carry, explore=True)
    for other in (joined, loaded):
        output = policy.act(made[2], other, explore=True)
        np.testing.assert_array_equal(output.action, expected.action)
        for ours, theirs in zip(leaves(output.carry), leaves(expected.carry), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_an_episode_start_forgets_everything_but_the_random_stream() -> None:
    policy = policy_of(tiny("dreamer_v3"), sharp=True)
    made = steps(SPEC, 5, 4, first=3)
    outputs = follow(policy, made, policy.initial(seeds(5)))
    fresh = policy.initial(seeds(5))
    blank = replace(fresh, random=outputs[2].carry.random)
    again = policy.act(made[3], blank, explore=True)
    np.testing.assert_array_equal(again.action, outputs[3].action)
    np.testing.assert_array_equal(again.carry.deter, outputs[3].carry.deter)
    mid = policy.act(replace(made[3], is_first=np.zeros(5, np.bool_)), outputs[2].carry, explore=True)
    assert not np.allclose(mid.carry.deter, outputs[3].carry.deter)


def test_only_newer_weights_are_taken() -> None:
    config = tiny("dreamer_v3")
    policy = policy_of(config, version=3, sharp=True)
    step, carry = steps(SPEC, 4, 1)[0], policy.initial(seeds(4))
    before = policy.act(step, carry, explore=False).action
    other = weights_of(config, sharp=True, seed=9)
    policy.update(2, other)
    policy.update(3, other)
    assert policy.version == 3
    np.testing.assert_array_equal(policy.act(step, carry, explore=False).action, before)
    policy.update(4, other)
    assert policy.version == 4
    assert not np.array_equal(policy.act(step, carry, explore=False).action, before)
    other["policy.out.weight"][:] = np.nan  # the policy has its own copy
    assert np.isfinite(policy.act(step, carry, explore=False).action).all()


@pytest.mark.parametrize("name", ["dreamer_v3", "planet"])
def test_the_process_keeps_its_random_numbers(name: str) -> None:
    weights = weights_of(tiny(name))
    before = torch.get_rng_state()
    policy = policy_of(tiny(name), version=0)
    policy.update(1, weights)
    follow(policy, steps(SPEC, 2, 2), policy.initial(seeds(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_model_are_refused() -> None:
    policy = policy_of(tiny("dreamer_v3"), version=0)
    with pytest.raises(RuntimeError):
        policy.update(1, weights_of(tiny("dreamer_v1")))
    assert policy.version == 0


def test_exploring_samples_the_policy_and_evaluating_may_take_its_mode() -> None:
    """The state's noise is shared: rows differ by it, so the spread of actions is compared with the policy's own."""
    config = tiny("dreamer_v3")
    policy = policy_of(replace(config, policy=replace(config.policy, evaluation="mode")))
    rows = 4000
    step = steps(SPEC, 1, 1)[0].take(np.zeros(rows, np.int64))
    carry = policy.initial(seeds(rows))
    explored, chosen = (policy.act(step, carry, explore) for explore in (True, False))
    np.testing.assert_array_equal(explored.carry.deter, chosen.carry.deter)
    std = 0.9 / (1.0 + np.exp(-2.0)) + 0.1  # of nearly zero outputs; clipping at 1 makes it smaller
    noise = np.clip(std * np.random.default_rng(0).normal(size=100_000), -1.0, 1.0)
    np.testing.assert_allclose((explored.action - chosen.action).std(0), noise.std(), rtol=0.03)
    assert np.abs(chosen.action).max() < 0.1
    sampled = policy_of(config).act(step, carry, explore=False)
    np.testing.assert_array_equal(sampled.action, explored.action)


def test_exploration_noise_has_its_size_and_random_ids_their_share() -> None:
    rows = 4000
    for spec in (SPEC, DISCRETE):
        quiet = tiny("dreamer_v1")
        loud = replace(quiet, exploration_noise=0.3)
        step = steps(spec, 1, 1)[0].take(np.zeros(rows, np.int64))
        weights = weights_of(quiet, spec)
        weights["policy.out.weight"] *= 0.0
        if spec is SPEC:
            weights["policy.std.bias"] -= 20.0  # nearly deterministic
        else:
            weights["policy.out.bias"][:] = [0.0, 50.0, 0.0]
        policy = LatentPolicy(spec, loud, PLANNER)
        policy.update(1, weights)
        carry = policy.initial(seeds(rows))
        explored, chosen = (policy.act(step, carry, explore).action for explore in (True, False))
        if spec is SPEC:
            np.testing.assert_allclose((explored - chosen).std(0), 0.3, rtol=0.05)
            assert np.abs(np.corrcoef(explored.T)[0, 1]) < 0.05
        else:
            assert (chosen == 1).all()
            np.testing.assert_allclose(np.bincount(explored, minlength=3) / rows, [0.1, 0.8, 0.1], atol=0.02)


def rollout(config: DreamerConfig, weights: dict[str, Any], count: int) -> SequenceBatch:
    """A batch of the first steps of two streams of the counter environment."""
    policy = LatentPolicy(COUNTER_SPEC, config, PLANNER)
    policy.update(1, weights)
    loop = RolloutLoop(CounterVectorEnv(2), policy, seed=0, config=RolloutConfig(64))
    blocks = loop.collect(64).blocks
    data = {key: np.stack([block.data[key][:count] for block in blocks]) for key in blocks[0].data}
    numbers = np.zeros(2, np.int64)
    return SequenceBatch(
        data, numbers.astype(np.uint64), numbers, numbers, np.ones(2, np.float32), np.zeros((2, 3), np.int64)
    )


def counter_config() -> DreamerConfig:
    config = tiny("dreamer_v3")
    return replace(config, observation=replace(config.observation, keys=("state",)))


def test_stored_latents_are_the_algorithms_states_through_episode_ends() -> None:
    """From the latent stored at any step the model comes to the one stored at the next: same action, same reset."""
    config = counter_config()
    algorithm = make(config, COUNTER_SPEC)
    batch = rollout(config, algorithm.export_weights(), 64)
    assert batch.data["is_first"][:, 1:].any(1).all()
    assert batch.data["latent_deter"].any()
    for t in range(63):
        two = replace(batch, data={key: value[:, t : t + 2] for key, value in batch.data.items()})
        data = algorithm._to_device(two)
        noise = torch.zeros(2, 1, config.rssm.groups)
        states, _ = algorithm.world.filter_posterior(
            data.observation, data.previous_action, data.is_first, data.start, noise
        )
        stored = two.data["latent_deter"][:, 1].astype(np.float32)
        np.testing.assert_allclose(states.deter[:, 0].detach().numpy(), stored, rtol=0.0, atol=2e-3, err_msg=str(t))


def test_acting_agrees_with_the_algorithm_on_the_exported_weights() -> None:
    """After updates, the actor's mode in the stored states is the action that was taken without exploration."""
    config = tiny("dreamer_v3")
    config = replace(config, policy=replace(config.policy, evaluation="mode"))
    algorithm: DreamerAlgorithm = make(config)
    assert algorithm.behaviour is not None
    with torch.no_grad():
        algorithm.behaviour.policy.out.weight.normal_()
    policy = LatentPolicy(SPEC, config, PLANNER)
    policy.update(1, algorithm.export_weights())
    for output in follow(policy, steps(SPEC, 5, 3), policy.initial(seeds(5)), explore=False):
        state = State(torch.from_numpy(output.carry.deter), torch.from_numpy(output.carry.stoch))
        expected = algorithm.behaviour.policy(state.features).mode().detach().numpy()
        np.testing.assert_allclose(output.action, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(output.action).max() > 0.1


def test_planning_in_latent_space_finds_the_rewarded_action() -> None:
    """The reward head is made to like the feature that the action's own layer raises."""
    config = tiny("planet", exploration_noise=0.0)
    algorithm = make(config)
    rssm = algorithm.world.rssm
    with torch.no_grad():
        for parameter in algorithm.world.parameters():
            parameter.mul_(0.1)
        # deter[0] follows tanh of the first action, the reward follows deter[0] (through an elu, nearly linear).
        rssm.cell.input.linear.weight[0, -2] = 2.0  # type: ignore[union-attr]
        rssm.cell.gates.weight[rssm.deter, 0] = 2.0
        for layer in algorithm.world.reward.mlp:
            layer.linear.weight[0, 0] = 2.0
        algorithm.world.reward.out.weight[0, 0] = 2.0
    policy = LatentPolicy(SPEC, config, replace(PLANNER, population=100, elites=10, iterations=4, momentum=0.0))
    policy.update(1, algorithm.export_weights())
    outputs = follow(policy, steps(SPEC, 3, 3), policy.initial(seeds(3)), explore=False)
    for output in outputs:
        assert (output.action[:, 0] > 0.7).all(), output.action
        assert np.isfinite(output.metrics["return_mean"]).all()


def test_a_planner_may_be_told_to_use_the_critic() -> None:
    policy = policy_of(tiny("dreamer_v3", acting="planner"))
    output = follow(policy, steps(SPEC, 3, 2), policy.initial(seeds(3)))[-1]
    assert output.metrics.keys() == {"return_mean", "return_variance"}
    assert output.extras.keys() == set(LATENT_KEYS)


@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
@pytest.mark.parametrize("spec", [SPEC, DISCRETE], ids=["box", "ids"])
def test_a_tree_search_finds_the_rewarded_action(spec: EnvSpec, latent: Any) -> None:
    """The memory's first feature follows the first action, and the reward that feature; the actor knows of neither."""
    config = tiny("dreamer_v2", acting="planner", exploration_noise=0.0)
    config = replace(config, rssm=replace(config.rssm, latent=latent, cell="gru"))
    algorithm = make(config, spec)
    rssm = algorithm.world.rssm
    action = rssm.stoch + (0 if spec is SPEC else 1)
    with torch.no_grad():
        for parameter in algorithm.world.parameters():
            parameter.mul_(0.1)
        rssm.cell.input.linear.weight[0, action] = 2.0  # type: ignore[union-attr]
        rssm.cell.gates.weight[rssm.deter, 0] = 2.0
        algorithm.world.reward.mlp[0].linear.weight[0, 0] = 2.0
        algorithm.world.reward.out.weight[0, 0] = 2.0
    policy = LatentPolicy(spec, config, MctsConfig(gamma=0.5, simulations=40))
    policy.update(1, algorithm.export_weights())
    outputs = follow(policy, steps(spec, 20, 3), policy.initial(seeds(20)), explore=False)
    chosen = np.stack([output.action for output in outputs])
    if spec is SPEC:
        assert (chosen[..., 0] > 0.0).mean() > 0.9, chosen  # 0.5 by chance
    else:
        assert (chosen == 1).mean() > 0.6, chosen  # 0.33 by chance
    for output in outputs:
        assert output.metrics.keys() == {"return_mean", "return_variance", "tree_depth", "policy_entropy"}
        assert all(np.isfinite(values).all() for values in output.metrics.values())


@pytest.mark.parametrize("planner", [PLANNER, MctsConfig(simulations=8, gumbel_scale=1.0)], ids=["cem", "mcts"])
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_a_row_plans_the_same_in_any_batch(planner: CemConfig | MctsConfig, latent: Any) -> None:
    config = tiny("dreamer_v2", acting="planner")
    config = replace(config, rssm=replace(config.rssm, latent=latent))
    policy = LatentPolicy(SPEC, config, planner)
    policy.update(1, weights_of(config, sharp=True))
    made, carry = steps(SPEC, 5, 3), policy.initial(seeds(5))
    together = follow(policy, made, carry)
    for index in (np.array([3]), np.array([4, 1])):
        alone = follow(policy, [step.take(index) for step in made], take_rows(carry, index))
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(one.action, all_.action[index], rtol=1e-4, atol=1e-5)
            for name in one.metrics:
                np.testing.assert_allclose(one.metrics[name], all_.metrics[name][index], rtol=1e-3, atol=1e-4)


def test_search_noise_acts_only_where_the_policy_explores() -> None:
    config = tiny("dreamer_v2", acting="planner", exploration_noise=0.0)
    policies = [LatentPolicy(SPEC, config, MctsConfig(simulations=8, gumbel_scale=scale)) for scale in (0.0, 5.0)]
    made = steps(SPEC, 10, 1)
    for policy in policies:
        policy.update(1, weights_of(config, sharp=True))
    quiet, noisy = (
        [p.act(made[0], p.initial(seeds(10)), explore).action for explore in (True, False)] for p in policies
    )
    np.testing.assert_array_equal(quiet[0], quiet[1])
    np.testing.assert_array_equal(quiet[1], noisy[1])
    assert not np.array_equal(noisy[0], noisy[1])


def test_a_tree_search_needs_an_actor() -> None:
    with pytest.raises(ValueError, match="mcts needs a policy and a critic, which planet lacks"):
        LatentPolicy(SPEC, tiny("planet"), MctsConfig())


@pytest.mark.parametrize("extreme", [0.0, 1.0 - 2.0**-24])
def test_the_most_extreme_random_numbers_give_finite_actions(extreme: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 - 2^-24 was rounded to 1, whose normal number is infinite."""

    def uniform(self: RowGenerator, carry: RandomCarry) -> tuple[NDArray[np.float32], RandomCarry]:
        return np.full((len(carry.state), self._offset.size), extreme, np.float32), carry

    monkeypatch.setattr(RowGenerator, "uniform", uniform)
    policy = policy_of(tiny("dreamer_v1", exploration_noise=0.3))
    for output in follow(policy, steps(SPEC, 2, 3), policy.initial(seeds(2))):
        assert np.isfinite(output.action).all()
        assert np.isfinite(output.carry.stoch).all()
