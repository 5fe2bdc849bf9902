"""native.Ensemble against its NumPy twin, and what the twin cannot show: batching, threads, NaN, refusals."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import native
from native.reference import EnsembleReference, particle_members, philox4x32

CPU = native.cpu_features()
FP32 = ["scalar"] + [isa for isa in ("avx2", "avx512") if CPU[isa]]
BF16 = [isa for isa, feature in (("avx512bf16", "avx512bf16"), ("amx", "amx_bf16")) if CPU[feature]]
STATE, ACTION, MEMBERS = 9, 2, 5

Weights = dict[str, NDArray[Any]]


def make_weights(
    hidden: tuple[int, ...] = (70, 33),
    activation: str = "silu",
    gaussian: bool = True,
    has_termination: bool = False,
    members: int = MEMBERS,
    seed: int = 0,
) -> Weights:
    rng = np.random.default_rng(seed)
    sizes = [STATE + ACTION, *hidden, (STATE + 1) * (2 if gaussian else 1) + has_termination]
    weights: Weights = {}
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        weights[f"weight_{i}"] = (rng.standard_normal((members, rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights[f"bias_{i}"] = (0.1 * rng.standard_normal((members, columns))).astype(np.float32)
    weights["input_shift"] = (0.1 * rng.standard_normal(STATE + ACTION)).astype(np.float32)
    weights["input_scale"] = rng.uniform(0.5, 1.5, STATE + ACTION).astype(np.float32)
    weights["output_shift"] = (0.05 * rng.standard_normal(STATE + 1)).astype(np.float32)
    weights["output_scale"] = rng.uniform(0.05, 0.2, STATE + 1).astype(np.float32)
    if gaussian:
        weights["min_logvar"] = np.full(STATE + 1, -8.0, np.float32)
        weights["max_logvar"] = np.full(STATE + 1, 0.5, np.float32)
    weights["activation"] = np.frombuffer(activation.encode(), np.uint8)
    weights["gaussian"] = np.array(gaussian, np.int64)
    weights["has_termination"] = np.array(has_termination, np.int64)
    return weights


def make_problem(
    problems: int = 2, candidates: int = 37, horizon: int = 6, seed: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint64]]:
    rng = np.random.default_rng(seed)
    observation = rng.standard_normal((problems, STATE)).astype(np.float32)
    actions = rng.uniform(-1, 1, (problems, candidates, horizon, ACTION)).astype(np.float32)
    return observation, actions, rng.integers(0, 2**64, problems, dtype=np.uint64)


@pytest.mark.parametrize("isa", FP32)
@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "elu"])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1"])
def test_rollout_equals_twin(isa: str, activation: str, propagation: str) -> None:
    weights = make_weights(activation=activation, has_termination=True)
    observation, actions, seeds = make_problem()
    arguments = (observation, actions, seeds, 2 * MEMBERS, propagation, 0.97, True)
    returns = native.Ensemble(weights, isa=isa).rollout(*arguments)
    assert returns.shape == (2, 37, 2 * MEMBERS)
    np.testing.assert_allclose(returns, EnsembleReference(weights).rollout(*arguments), atol=1e-6)


@pytest.mark.parametrize("isa", BF16)
@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "elu"])
def test_bf16_ranks_candidates_as_the_twin(isa: str, activation: str) -> None:
    weights = make_weights((64, 64), activation)
    observation, actions, seeds = make_problem(1, 500)
    arguments = (observation, actions, seeds, MEMBERS, "ts_inf", 1.0, False)
    ensemble = native.Ensemble(weights, "bf16", isa)
    exact = EnsembleReference(weights).rollout(*arguments).mean(axis=-1)[0]
    rounded = ensemble.rollout(*arguments).mean(axis=-1)[0]
    assert ensemble.precision == "bf16"
    assert np.abs(rounded - exact).max() < 0.2 * exact.std()
    assert np.corrcoef(rounded, exact)[0, 1] > 0.999
    shared = set(np.argsort(exact)[-50:]) & set(np.argsort(rounded)[-50:])
    assert len(shared) >= 47


@pytest.mark.parametrize("isa", FP32 + BF16)
@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("has_termination", [False, True])
def test_predict_equals_twin(isa: str, gaussian: bool, has_termination: bool) -> None:
    weights = make_weights(gaussian=gaussian, has_termination=has_termination)
    rng = np.random.default_rng(2)
    state = rng.standard_normal((45, STATE)).astype(np.float32)
    action = rng.uniform(-1, 1, (45, ACTION)).astype(np.float32)
    tolerance = 5e-3 if isa in BF16 else 1e-6
    actual = native.Ensemble(weights, isa=isa, threads=2).predict(state, action)
    for part, expected in zip(actual, EnsembleReference(weights).predict(state, action), strict=True):
        np.testing.assert_allclose(part, expected, atol=tolerance)


@pytest.mark.parametrize("isa", FP32 + BF16)
@pytest.mark.parametrize("hidden", [(), (1,), (17,), (256, 3, 50)])
def test_any_layers(isa: str, hidden: tuple[int, ...]) -> None:
    weights = make_weights(hidden, gaussian=False, members=1)
    observation, actions, seeds = make_problem(1, 3, 2)
    arguments = (observation, actions, seeds, 2, "ts1", 1.0, True)
    expected = EnsembleReference(weights).rollout(*arguments)
    actual = native.Ensemble(weights, isa=isa).rollout(*arguments)
    np.testing.assert_allclose(actual, expected, atol=5e-3 if isa in BF16 else 1e-6)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1"])
def test_trajectories_equal_twin(propagation: str) -> None:
    weights = make_weights()
    observation, actions, seeds = make_problem(3, 1, 5)
    arguments = (observation, actions[:, 0].copy(), seeds, MEMBERS, propagation, True)
    states, rewards = native.Ensemble(weights, "fp32").trajectories(*arguments)
    expected_states, expected_rewards = EnsembleReference(weights).trajectories(*arguments)
    np.testing.assert_allclose(states, expected_states, atol=2e-6)
    np.testing.assert_allclose(rewards, expected_rewards, atol=2e-6)


@pytest.mark.parametrize("isa", FP32 + BF16)
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1"])
def test_batches_and_threads_change_no_bit(isa: str, propagation: str) -> None:
    weights = make_weights()
    observation, actions, seeds = make_problem(3, 71)
    one, two = native.Ensemble(weights, isa=isa), native.Ensemble(weights, isa=isa, threads=2)
    options = (MEMBERS, propagation, 0.9, True)
    batch = one.rollout(observation, actions, seeds, *options)
    np.testing.assert_array_equal(two.rollout(observation, actions, seeds, *options), batch)
    for b in range(3):
        row = slice(b, b + 1)
        single = two.rollout(observation[row], actions[row], seeds[row], *options)
        np.testing.assert_array_equal(single, batch[row])
        np.testing.assert_array_equal(
            two.rollout(observation[row], actions[row, :20].copy(), seeds[row], *options), batch[row, :20]
        )


def test_concurrent_calls_take_turns() -> None:
    ensemble = native.Ensemble(make_weights(), threads=2)
    observation, actions, seeds = make_problem(1, 200)
    expected = ensemble.rollout(observation, actions, seeds, MEMBERS, "ts_inf", 1.0, True)
    results: list[NDArray[np.float32]] = []

    def call() -> None:
        options = (MEMBERS, "ts_inf", 1.0, True)
        results.extend(ensemble.rollout(observation, actions, seeds, *options) for _ in range(10))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 30
    for result in results:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("isa", FP32 + BF16)
def test_nan_reaches_its_candidate_only(isa: str) -> None:
    ensemble = native.Ensemble(make_weights(activation="relu"), isa=isa)
    observation, actions, seeds = make_problem(1, 40)
    clean = ensemble.rollout(observation, actions, seeds, MEMBERS, "ts_inf", 1.0, True)
    actions[0, 7, -1, 1] = np.nan
    returns = ensemble.rollout(observation, actions, seeds, MEMBERS, "ts_inf", 1.0, True)
    assert np.isnan(returns[0, 7]).all()
    others = np.arange(40) != 7
    np.testing.assert_array_equal(returns[0, others], clean[0, others])


@pytest.mark.parametrize("isa", FP32 + BF16)
def test_noise_is_standard_normal(isa: str) -> None:
    weights = make_weights((8,), members=1)
    weights["weight_1"][:], weights["bias_1"][:] = 0.0, 0.0
    weights["output_shift"][:], weights["output_scale"][:] = 0.0, 1.0
    weights["min_logvar"][:], weights["max_logvar"][:] = -40.0, 40.0  # variance e^0 = 1
    observation = np.zeros((4000, STATE), np.float32)
    actions = np.zeros((4000, 2, ACTION), np.float32)
    seeds = np.arange(4000, dtype=np.uint64)
    states, rewards = native.Ensemble(weights, isa=isa).trajectories(observation, actions, seeds, 5, "ts_inf", True)
    noise = np.concatenate([np.diff(states, axis=2), rewards[..., None]], axis=-1).astype(np.float64)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1.0) < 5 * np.sqrt(2 / noise.size)
    assert abs((noise**4).mean() - 3.0) < 5 * np.sqrt(96 / noise.size)
    rows = noise.reshape(4000, -1)  # no two of (particle, step, dimension) are correlated
    correlation = np.corrcoef(rows.T) - np.eye(rows.shape[1])
    assert np.abs(correlation).max() < 6 / np.sqrt(4000)
    assert np.unique(noise).size > 0.95 * noise.size


def test_ts_inf_keeps_each_member() -> None:
    """Members that predict constant rewards 1..K show who moved a particle."""
    weights = make_weights((4,), gaussian=False, members=3)
    weights["weight_1"][:], weights["bias_1"][:] = 0.0, 0.0
    weights["bias_1"][:, -1] = [1.0, 2.0, 3.0]
    weights["output_shift"][:], weights["output_scale"][:] = 0.0, 1.0
    observation, actions, seeds = make_problem(2, 4, 8)
    ensemble = native.Ensemble(weights, "fp32")
    returns = ensemble.rollout(observation, actions, seeds, 6, "ts_inf", 1.0, False)
    np.testing.assert_array_equal(returns, np.broadcast_to(8.0 * np.array([1, 2, 3, 1, 2, 3]), (2, 4, 6)))
    mixed = ensemble.rollout(observation, actions, seeds, 6, "ts1", 1.0, False)
    for b in range(2):
        table = native.particle_members(int(seeds[b]), 8, 6, 3, "ts1")
        np.testing.assert_array_equal(mixed[b], np.broadcast_to((table + 1.0).sum(axis=0), (4, 6)))
    np.testing.assert_array_equal(mixed.sum(axis=-1), np.full((2, 4), 8 * 12.0))  # every step is stratified


def test_termination_ends_the_return() -> None:
    weights = make_weights((4,), gaussian=False, has_termination=True, members=1)
    weights["weight_1"][:], weights["bias_1"][:] = 0.0, 0.0
    weights["output_shift"][:], weights["output_scale"][:] = 0.0, 1.0
    weights["bias_1"][:, STATE] = 1.0  # reward
    weights["bias_1"][:, -1] = np.log(1.0 / 3.0)  # done with probability 1/4
    observation, actions, seeds = make_problem(1, 2, 3)
    returns = native.Ensemble(weights, "fp32").rollout(observation, actions, seeds, 1, "ts_inf", 0.5, False)
    np.testing.assert_allclose(returns, 1 + 0.5 * 0.75 + 0.25 * 0.75**2, rtol=1e-6)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1"])
def test_particle_members_equal_twin(propagation: str) -> None:
    seed = 2**63 + 11
    expected = particle_members(seed, 9, 20, 5, propagation)
    np.testing.assert_array_equal(native.particle_members(seed, 9, 20, 5, propagation), expected)


def test_twin_philox_known_answer() -> None:
    words = philox4x32(
        np.array([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], np.uint64), np.array(0x299F31D0A4093822, np.uint64)
    )
    assert [int(w) for w in words] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_describes_itself() -> None:
    ensemble = native.Ensemble(make_weights(), "fp32", threads=2)
    assert (ensemble.num_members, ensemble.state_size, ensemble.action_size) == (MEMBERS, STATE, ACTION)
    assert ensemble.is_gaussian
    assert ensemble.precision == "fp32"
    assert ensemble.isa == FP32[-1]
    assert ensemble.threads == 2
    assert native.Ensemble(make_weights()).isa == (FP32 + BF16)[-1]
    assert native.build_info()["cplusplus"] >= 202002


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weight_0", None, "weight_0"),
        ("weight_1", np.zeros((MEMBERS, 71, 33), np.float32), "71"),
        ("bias_0", np.zeros((MEMBERS, 69), np.float32), "69"),
        ("weight_0", np.zeros((MEMBERS, STATE + ACTION, 70)), "float64"),
        ("weight_0", [1.0], "list"),
        ("output_scale", np.zeros(STATE, np.float32), "output_scale"),
        ("max_logvar", None, "max_logvar"),
        ("activation", np.frombuffer(b"gelu", np.uint8), "gelu"),
        ("gaussian", np.array(2, np.int64), "2"),
        ("has_termination", np.array(1, np.int64), "21"),
    ],
)
def test_refuses_inconsistent_weights(key: str, value: Any, message: str) -> None:
    weights = make_weights()
    if value is None:
        del weights[key]
    else:
        weights[key] = value
    with pytest.raises(ValueError, match=message):
        native.Ensemble(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": 7}, "7"),
        ({"particles": 0}, "0"),
        ({"propagation": "ts2"}, "ts2"),
        ({"gamma": -0.5}, "-0.5"),
        ({"observation": np.zeros((2, STATE + 1), np.float32)}, "10"),
        ({"seeds": np.zeros(3, np.uint64)}, "seeds"),
        ({"actions": np.zeros((2, 0, 3, ACTION), np.float32)}, "candidates"),
        ({"actions": np.zeros((2, 3, ACTION), np.float32)}, "actions"),
    ],
)
def test_rollout_refuses(change: dict[str, Any], message: str) -> None:
    observation, actions, seeds = make_problem()
    arguments: dict[str, Any] = {
        "observation": observation,
        "actions": actions,
        "seeds": seeds,
        "particles": MEMBERS,
        "propagation": "ts_inf",
        "gamma": 1.0,
        "sample": True,
    } | change
    with pytest.raises(ValueError, match=message):
        native.Ensemble(make_weights()).rollout(**arguments)


def test_wrong_dtype_and_stride_are_type_errors() -> None:
    ensemble = native.Ensemble(make_weights())
    observation, actions, seeds = make_problem()
    wrong: list[Any] = [observation.astype(np.float64), observation[:, ::-1]]
    for bad in wrong:
        with pytest.raises(TypeError):
            ensemble.rollout(bad, actions, seeds, MEMBERS, "ts_inf", 1.0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "fp16"}, "fp16"),
        ({"isa": "neon"}, "neon"),
        ({"isa": "scalar", "precision": "bf16"}, "scalar"),
        ({"threads": 0}, "0"),
    ],
)
def test_constructor_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.Ensemble(make_weights(), **arguments)
