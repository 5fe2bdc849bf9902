"""Losses against literal arrays."""

import math

import numpy as np
import pytest
import torch

from learner.losses.ensemble import ensemble_loss, logvar_penalty
from learner.losses.ensemble_config import EnsembleLossConfig
from learner.losses.likelihood import beta_nll, binary_cross_entropy, gaussian_nll, huber, squared_error, student_nll
from learner.models.ensemble import EnsemblePrediction, clamp_logvar


def t(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_squared_and_huber_agree_near_zero_and_differ_beyond_delta() -> None:
    error = t([0.0, 0.5, -2.0, 3.0])
    np.testing.assert_allclose(squared_error(error, t(0.0)), [0.0, 0.125, 2.0, 4.5])
    np.testing.assert_allclose(huber(error, torch.zeros(4, dtype=torch.float64)), [0.0, 0.125, 1.5, 2.5])
    np.testing.assert_allclose(huber(error, torch.zeros(4, dtype=torch.float64), 2.0), [0.0, 0.125, 2.0, 4.0])


def test_gaussian_nll_is_minus_the_log_density() -> None:
    nll = gaussian_nll(t([1.0, 0.0]), t([0.0, math.log(4.0)]), t([1.0, 2.0]))
    np.testing.assert_allclose(nll, [0.918938533204673, 0.918938533204673 + math.log(2.0) + 0.5])


def test_beta_one_gives_the_mean_the_gradient_of_a_squared_error() -> None:
    mean = t([0.5, -1.0]).requires_grad_()
    loss = beta_nll(mean, t([2.0, -3.0]), t([0.0, 0.0]), 1.0).sum()
    (gradient,) = torch.autograd.grad(loss, mean)
    np.testing.assert_allclose(gradient, [0.5, -1.0])


def test_binary_cross_entropy_counts_positives_ten_times() -> None:
    loss = binary_cross_entropy(t([0.0, 0.0, 2.0]), t([1.0, 0.0, 1.0]), 10.0)
    np.testing.assert_allclose(loss, [10 * math.log(2), math.log(2), 10 * math.log1p(math.exp(-2.0))])


def test_logvar_clamp_keeps_the_inside_and_bounds_the_outside() -> None:
    clamped = clamp_logvar(t([-50.0, -4.0, 50.0]), t(-10.0), t(0.5))
    np.testing.assert_allclose(clamped, [-10.0, -4.0, 0.5], atol=0.02)
    # the identity that kernels use: var = e^min + 1 / (e^-max + e^-logvar)
    identity = torch.exp(t(-10.0)) + 1.0 / (torch.exp(t(-0.5)) + torch.exp(-t([-4.0])))
    np.testing.assert_allclose(torch.exp(clamped[1:2]), identity, rtol=1e-4)
    assert logvar_penalty(EnsembleLossConfig(), t([-10.0, -8.0]), t([0.5, 0.5])).item() == pytest.approx(0.19)


def two_members(done: bool = True) -> tuple[EnsemblePrediction, torch.Tensor, torch.Tensor]:
    """K 2, N 2, one state dimension and the reward."""
    mean = t([[[1.0, 0.5], [9.0, 9.0]], [[0.0, 3.0], [2.0, 0.0]]])
    logit = torch.zeros(2, 2, dtype=torch.float64) if done else None
    return EnsemblePrediction(mean, None, logit), torch.zeros(2, 2, dtype=torch.float64), t([1.0, 0.0])


def test_total_is_state_plus_half_reward_plus_a_tenth_done_per_member() -> None:
    prediction, target, terminal = two_members()
    weights = t([[1.0, 0.0], [1.0, 3.0]])
    loss = ensemble_loss(EnsembleLossConfig(), prediction, target, terminal, weights)
    state = [0.5, (0.0 + 3 * 2.0) / 4]
    reward = [0.125, 2.5 / 4]
    done = [10 * math.log(2), (10 * math.log(2) + 3 * math.log(2)) / 4]
    np.testing.assert_allclose(loss.state, state)
    np.testing.assert_allclose(loss.reward, reward)
    np.testing.assert_allclose(loss.done, done)
    np.testing.assert_allclose(loss.total, np.add(state, 0.5 * np.array(reward)) + 0.1 * np.array(done))
    mean = ensemble_loss(EnsembleLossConfig(), prediction, target, terminal, weights, reduce="mean")
    assert mean.total.item() == pytest.approx(loss.total.mean().item())


def test_rows_without_weight_may_hold_anything() -> None:
    prediction, target, terminal = two_members(done=False)
    target[1] = math.nan
    weights = t([[1.0, 0.0], [2.0, 0.0]])
    loss = ensemble_loss(EnsembleLossConfig(state="huber"), prediction, target, terminal, weights)
    np.testing.assert_allclose(loss.state, [0.5, 0.0])
    np.testing.assert_allclose(loss.done, [0.0, 0.0])


def test_shares_with_global_sums_add_up_to_the_whole() -> None:
    prediction, target, terminal = two_members()
    weights = t([[1.0, 2.0], [1.0, 3.0]])
    whole = ensemble_loss(EnsembleLossConfig(), prediction, target, terminal, weights).total
    parts = torch.zeros(2, dtype=torch.float64)
    for n in range(2):
        rows = slice(n, n + 1)
        assert prediction.done_logit is not None
        part = EnsemblePrediction(prediction.mean[:, rows], None, prediction.done_logit[:, rows])
        share = (EnsembleLossConfig(), part, target[rows], terminal[rows], weights[:, rows], weights.sum(1))
        parts += ensemble_loss(*share).total
    np.testing.assert_allclose(parts, whole)


def test_gaussian_members_use_the_likelihood_of_state_and_reward() -> None:
    mean, logvar = torch.zeros(1, 1, 3, dtype=torch.float64), t([[[0.0, 0.0, math.log(4.0)]]])
    target = t([[1.0, 3.0, 2.0]])
    config = EnsembleLossConfig(nll_beta=0.0)
    loss = ensemble_loss(config, EnsemblePrediction(mean, logvar, None), target, t([0.0]), t([[1.0]]))
    constant = 0.5 * math.log(2 * math.pi)
    assert loss.state.item() == pytest.approx(constant + 0.5 * (0.5 + 4.5))
    assert loss.reward.item() == pytest.approx(constant + 0.5 + math.log(2.0))


@pytest.mark.parametrize(
    ("field", "value"), [("state", "l1"), ("huber_delta", 0.0), ("done_scale", -1.0), ("nll_beta", 2)]
)
def test_bad_settings_name_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=str(value)):
        EnsembleLossConfig(**{field: value})  # type: ignore[arg-type]


def test_student_nll_is_minus_the_log_density_of_that_variance() -> None:
    mean, logvar, target = torch.tensor([0.3, 1.0]), torch.tensor([0.5, -2.0]), torch.tensor([2.0, 0.7])
    scale = torch.exp(0.5 * logvar) * (1.0 / 3.0) ** 0.5  # a variance of 3 squared scales, with 3 degrees
    expected = -torch.distributions.StudentT(3.0, mean, scale).log_prob(target)
    torch.testing.assert_close(student_nll(mean, logvar, target, 3.0), expected)


def test_many_degrees_of_freedom_are_a_normal() -> None:
    mean, logvar, target = torch.zeros(2), torch.zeros(2), torch.tensor([0.5, 2.0])
    torch.testing.assert_close(
        student_nll(mean, logvar, target, 1e4), gaussian_nll(mean, logvar, target), rtol=1e-3, atol=1e-3
    )


def test_entropy_lowers_the_loss_by_its_scale() -> None:
    prediction = EnsemblePrediction(torch.zeros(1, 2, 3), torch.full((1, 2, 3), 0.4), None)
    target, terminal, weights = torch.zeros(2, 3), torch.zeros(2), torch.ones(1, 2)
    without = ensemble_loss(EnsembleLossConfig(), prediction, target, terminal, weights)
    with_it = ensemble_loss(EnsembleLossConfig(entropy_scale=0.1), prediction, target, terminal, weights)
    torch.testing.assert_close(without.total - with_it.total, 0.1 * without.entropy)
    assert without.entropy.item() == pytest.approx(0.2 + 0.5 * math.log(2 * math.pi * math.e))
