"""The ensemble module: size, normalisation, export and files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import native
from learner.models.ensemble import Ensemble
from learner.models.ensemble_config import EnsembleConfig
from learner.models.members import load_member, save_members
from learner.models.normaliser import RunningNormaliser

S, A, N = 4, 2, 7


def numpy_predict(
    record: dict[str, NDArray[Any]], state: NDArray[np.float32], action: NDArray[np.float32]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """(mean [K, N, S + 1], sigma [K, N, S + 1], done logit [K, N]) from the published record alone."""
    name = record["activation"].tobytes().decode("ascii")
    activations: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "silu": lambda x: x / (1 + np.exp(-x)),
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    }
    x = (np.concatenate([state, action], 1) - record["input_shift"]) * record["input_scale"]
    layers = sum(key.startswith("weight_") for key in record)
    x = np.broadcast_to(x, (record["weight_0"].shape[0], *x.shape))
    for i in range(layers):
        x = x @ record[f"weight_{i}"] + record[f"bias_{i}"][:, None]
        x = activations[name](x) if i < layers - 1 else x
    size = len(record["output_shift"])
    mean = x[..., :size] * record["output_scale"] + record["output_shift"]
    sigma = np.zeros_like(mean)
    if record["gaussian"]:
        low, high, raw = record["min_logvar"], record["max_logvar"], x[..., size : 2 * size]
        raw = high - np.logaddexp(0, high - raw)
        sigma = record["output_scale"] * np.exp(0.5 * (low + np.logaddexp(0, raw - low)))
    return mean, sigma, x[..., -1] if record["has_termination"] else None


def fitted(config: EnsembleConfig, seed: int = 0) -> Ensemble:
    """An ensemble with random biases and a normalisation taken from random data."""
    model = Ensemble(config, S, A, seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for bias in model.biases:
            bias.normal_(generator=generator)
    inputs = torch.randn(50, S + A, generator=generator) * 3 + 5
    outputs = torch.randn(50, S + 1, generator=generator) * torch.tensor([1e-3, 1.0, 10.0, 0.0, 2.0])
    model.input_statistics.merge(model.input_statistics.statistics(inputs, torch.ones(50)))
    model.output_statistics.merge(model.output_statistics.statistics(outputs, torch.ones(50)))
    model.refresh_scales()
    return model


@pytest.mark.parametrize("gaussian", [False, True])
def test_the_driving_size_stays_below_a_million_parameters(gaussian: bool) -> None:
    model = Ensemble(EnsembleConfig(gaussian=gaussian, termination=True), state_size=34, action_size=3)
    count = sum(p.numel() for p in model.parameters())
    outputs = 35 * (2 if gaussian else 1) + 1
    assert count == 5 * (37 * 256 + 256 + 256 * 256 + 256 + 257 * outputs) + (70 if gaussian else 0)
    assert count < 1_000_000


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "elu"])
@pytest.mark.parametrize(("gaussian", "termination"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_exported_record_predicts_what_the_module_predicts(
    activation: Any, gaussian: bool, termination: bool
) -> None:
    config = EnsembleConfig(3, (16, 8), activation, gaussian, termination)
    model = fitted(config)
    rng = np.random.default_rng(0)
    state, action = rng.normal(5, 3, (N, S)).astype(np.float32), rng.normal(5, 3, (N, A)).astype(np.float32)
    with torch.no_grad():
        predicted = model.predict(torch.from_numpy(state), torch.from_numpy(action))
    mean, sigma, done = numpy_predict(model.export(), state, action)
    np.testing.assert_allclose(predicted.mean, mean, rtol=1e-4, atol=1e-5)
    if gaussian:
        assert predicted.logvar is not None
        np.testing.assert_allclose(torch.exp(0.5 * predicted.logvar), sigma, rtol=1e-4)
    if termination:
        assert predicted.done_logit is not None
        assert done is not None
        np.testing.assert_allclose(predicted.done_logit, done, rtol=1e-4, atol=1e-5)
    assert (predicted.logvar is None, predicted.done_logit is None) == (not gaussian, not termination)


def test_the_record_has_the_agreed_names_shapes_and_types_and_is_a_copy() -> None:
    model = fitted(EnsembleConfig(3, (16, 8), "tanh", True, True))
    record = model.export()
    shapes = {name: value.shape for name, value in record.items()}
    assert shapes == {
        "weight_0": (3, S + A, 16),
        "weight_1": (3, 16, 8),
        "weight_2": (3, 8, 2 * (S + 1) + 1),
        "bias_0": (3, 16),
        "bias_1": (3, 8),
        "bias_2": (3, 2 * (S + 1) + 1),
        "input_shift": (S + A,),
        "input_scale": (S + A,),
        "output_shift": (S + 1,),
        "output_scale": (S + 1,),
        "min_logvar": (S + 1,),
        "max_logvar": (S + 1,),
        "activation": (4,),
        "gaussian": (),
        "has_termination": (),
    }
    integers = {"activation": np.uint8, "gaussian": np.int64, "has_termination": np.int64}
    for name, value in record.items():
        assert value.dtype == integers.get(name, np.float32), name
        assert value.flags.c_contiguous, name
    before = record["weight_0"].copy()
    with torch.no_grad():
        model.weights[0].zero_()
    np.testing.assert_array_equal(record["weight_0"], before)


def test_members_start_different_and_equal_seeds_start_equal() -> None:
    first, second = (Ensemble(EnsembleConfig(2, (8,)), S, A, seed=4) for _ in range(2))
    assert torch.equal(first.weights[0], second.weights[0])
    assert not torch.equal(first.weights[0][0], first.weights[0][1])
    assert not torch.equal(first.weights[0], Ensemble(EnsembleConfig(2, (8,)), S, A, seed=5).weights[0])


def test_members_can_be_given_states_of_their_own() -> None:
    model = fitted(EnsembleConfig(2, (8,)))
    state, action = torch.randn(2, N, S), torch.randn(2, N, A)
    with torch.no_grad():
        own = model(state, action).mean
        shared = model(state[1], action[1]).mean
    torch.testing.assert_close(own[1], shared[1])


def test_member_files_load_without_code_and_predict_like_the_member(tmp_path: Path) -> None:
    model = fitted(EnsembleConfig(3, (8,), "relu", True, True))
    paths = save_members(model, tmp_path / "members")
    assert [path.name for path in paths] == [f"world_model_member_{i}.pt" for i in range(3)]
    state, action = torch.randn(N, S), torch.randn(N, A)
    with torch.no_grad():
        whole = model.predict(state, action).mean
        for i, path in enumerate(paths):
            torch.testing.assert_close(load_member(path).predict(state, action).mean[0], whole[i])
    with pytest.raises(ValueError, match="got 3"):
        model.member_state_dict(3)


def test_normaliser_merges_batches_and_ignores_weightless_rows() -> None:
    values = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)) * 0.01 + torch.tensor([0.0, 100.0, 1e4])
    normaliser = RunningNormaliser(3)
    for part in torch.split(values, 70):
        normaliser.merge(normaliser.statistics(part, torch.ones(len(part))))
    normaliser.merge(normaliser.statistics(torch.full((5, 3), torch.nan), torch.zeros(5)))
    np.testing.assert_allclose(normaliser.mean, values.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(normaliser.std(), values.double().std(0, correction=0), rtol=1e-5)
    assert normaliser.count.item() == 300


def observed(normaliser: RunningNormaliser, *batches: list[float]) -> RunningNormaliser:
    for batch in batches:
        values = torch.tensor(batch)[:, None]
        normaliser.merge(normaliser.statistics(values, torch.ones(len(values))))
    return normaliser


REGULAR = [0.0, 1.0, -3.0, 0.001] * 50


@pytest.mark.parametrize("outlier", [1e38, -1e30, 1e10])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_outlier_changes_nothing_whenever_it_comes_and_however_often(outlier: float, place: int) -> None:
    batches = [REGULAR] * 3
    batches[place] = [*REGULAR, outlier]
    clean, normaliser = observed(RunningNormaliser(1), *[REGULAR] * 3), observed(RunningNormaliser(1), *batches)
    observed(normaliser, [*REGULAR, outlier])
    assert normaliser.mean.item() == pytest.approx(clean.mean.item(), rel=1e-12)
    assert normaliser.std().item() == pytest.approx(clean.std().item(), rel=1e-12)
    assert normaliser.outliers(torch.tensor([[outlier], [-3.0], [0.0]])).flatten().tolist() == [True, False, False]


def test_what_comes_first_is_judged_again_when_regular_values_are_known() -> None:
    normaliser = observed(RunningNormaliser(1), [0.0] * 200 + [1e38])
    assert normaliser.std().item() > 1e36  # among zeros alone it may be all there is
    observed(normaliser, REGULAR)
    assert normaliser.std().item() < 2.0


def test_values_of_another_magnitude_that_are_not_rare_count() -> None:
    values = [1e-6] * 90 + [1e6] * 10
    normaliser = observed(RunningNormaliser(1), values)
    assert normaliser.std().item() == pytest.approx(np.std(values), rel=1e-6)
    assert not normaliser.outliers(torch.tensor([[1e6], [1e-6]])).any()
    goal, contact = [0.01] * 999 + [1000.0], [1e-12] * 999 + [5.0]  # the latter a force beside a simulator's rounding
    for rare in (goal, contact, [0.0] * 999 + [1e7]):
        assert observed(RunningNormaliser(1), rare).std().item() == pytest.approx(np.std(rare), rel=1e-6)


def test_shares_of_ranks_add_up() -> None:
    values = torch.randn(200, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-3, 1e5])
    values[3, 0] = 1e20
    whole, shares = RunningNormaliser(2), RunningNormaliser(2)
    for _ in range(2):
        whole.merge(whole.statistics(values, torch.ones(200)))
        shares.merge(sum(shares.statistics(part, torch.ones(100)) for part in values.split(100)))
    torch.testing.assert_close(shares.mean, whole.mean, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(shares.std(), whole.std(), rtol=1e-12, atol=0.0)


def test_a_large_constant_is_not_taken_for_a_varying_one() -> None:
    model = Ensemble(EnsembleConfig(1, (8,)), S, A)
    inputs = torch.full((200, S + A), 1.1e7)
    for _ in range(3):
        model.input_statistics.merge(model.input_statistics.statistics(inputs, torch.ones(200)))
    model.refresh_scales()
    np.testing.assert_array_equal(model.input_scale, np.ones(S + A))


def test_constant_dimensions_are_not_blown_up() -> None:
    model = Ensemble(EnsembleConfig(1, (8,)), S, A)
    inputs, outputs = torch.full((20, S + A), 3.0), torch.zeros(20, S + 1)
    model.input_statistics.merge(model.input_statistics.statistics(inputs, torch.ones(20)))
    model.output_statistics.merge(model.output_statistics.statistics(outputs, torch.ones(20)))
    model.refresh_scales()
    np.testing.assert_array_equal(model.input_scale, np.ones(S + A))
    prediction = model.predict(torch.full((1, S), 3.1), torch.full((1, A), 3.1))
    assert prediction.mean.abs().max().item() < 1e-4  # nothing ever changed, so nothing changes


@pytest.mark.parametrize(
    ("field", "value"),
    [("members", 0), ("hidden", (8, 0)), ("activation", "gelu"), ("max_logvar", -20.0), ("min_std", 0.0)],
)
def test_bad_settings_name_the_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"gelu|-20|got 0|\(8, 0\)|0\.0"):
        EnsembleConfig(**{field: value})


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "elu"])
@pytest.mark.parametrize(("gaussian", "termination"), [(False, False), (True, True)])
def test_the_native_planner_predicts_what_the_module_predicts(
    activation: Any, gaussian: bool, termination: bool
) -> None:
    model = fitted(EnsembleConfig(3, (16, 8), activation, gaussian, termination))
    rng = np.random.default_rng(0)
    state, action = rng.normal(5, 3, (N, S)).astype(np.float32), rng.normal(5, 3, (N, A)).astype(np.float32)
    with torch.no_grad():
        predicted = model.predict(torch.from_numpy(state), torch.from_numpy(action))
    mean, variance, done = native.Ensemble(model.export(), precision="fp32").predict(state, action)
    np.testing.assert_allclose(mean, predicted.mean, rtol=1e-4, atol=2e-5)
    if predicted.logvar is not None:
        np.testing.assert_allclose(variance, torch.exp(predicted.logvar), rtol=1e-3, atol=1e-12)
    if predicted.done_logit is not None:
        np.testing.assert_allclose(done, torch.sigmoid(predicted.done_logit), rtol=1e-4, atol=1e-5)


def test_the_first_hinges_are_spread_over_the_inputs() -> None:
    model = Ensemble(EnsembleConfig(2, (512,), bias_spread=2.0), S, A)
    weight, bias = model.weights[0].detach(), model.biases[0].detach()
    distance = bias.abs() / weight.norm(dim=1)  # of a hinge from the mean of the inputs, in standard deviations
    assert 0.5 < distance.mean().item() < 2.0
    flat = Ensemble(EnsembleConfig(2, (512,), bias_spread=0.0), S, A)
    assert flat.biases[0].abs().max().item() == 0.0


def test_uncertainty_is_told_apart_and_adds_up_to_the_variance_of_the_mixture() -> None:
    model = fitted(EnsembleConfig(4, (8,), gaussian=True))
    state, action = torch.randn(6, S), torch.randn(6, A)
    found, out = model.uncertainty(state, action), model.predict(state, action)
    assert out.logvar is not None
    draws = out.mean + torch.exp(0.5 * out.logvar) * torch.randn(20_000, 4, 6, S + 1)
    torch.testing.assert_close(found.total, draws.flatten(0, 1).var(0), rtol=0.1, atol=1e-4)
    single = fitted(EnsembleConfig(1, (8,)))
    assert not single.uncertainty(state, action).total.any()


def test_orthogonal_weights_are_and_members_differ() -> None:
    model = Ensemble(EnsembleConfig(2, (16, 16), orthogonal=True), S, A)
    square = model.weights[1][0]
    torch.testing.assert_close(square @ square.T, torch.eye(16), rtol=1e-4, atol=1e-5)
    assert not torch.equal(model.weights[1][0], model.weights[1][1])


def test_an_imagined_step_is_observed_decoded_and_drawn() -> None:
    model = fitted(EnsembleConfig(2, (8,), gaussian=True, termination=True))
    state, action = torch.randn(5, S), torch.randn(5, A)
    latent = model.observe(state)
    mean = model.imagine(latent, action)
    torch.testing.assert_close(mean.latent, state + model.predict(state, action).mean[..., :-1])
    drawn = model.imagine(latent, action, torch.ones(2, 5, S + 1))
    assert (drawn.reward > mean.reward).all()
    assert ((mean.continuation > 0.0) & (mean.continuation < 1.0)).all()
    assert torch.equal(model.decode(mean.latent), mean.latent)
