"""Distributions of the heads: literal values, and samplers by their frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learner.models.distributions import (
    Bernoulli,
    BoundedNormal,
    Ids,
    OneHot,
    PartlyFixed,
    Regression,
    TanhNormal,
    TruncatedNormal,
    TwoHot,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
)

BINS = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
LOG_2PI = math.log(2.0 * math.pi)


def test_symlog_and_symexp_are_odd_and_each_others_inverse() -> None:
    x = torch.tensor([0.0, math.e - 1.0, 1.0 - math.e, 999.0], dtype=torch.float64)
    torch.testing.assert_close(symlog(x), torch.tensor([0.0, 1.0, -1.0, math.log(1000.0)], dtype=torch.float64))
    torch.testing.assert_close(symexp(symlog(x)), x)
    tiny = torch.tensor([1e-7, -1e-7])
    torch.testing.assert_close(symlog(tiny), tiny, rtol=1e-6, atol=0.0)  # no cancellation near 0


def test_bins_are_symmetric_and_equally_spaced_in_symlog_space() -> None:
    bins = symexp_bins(255)
    assert bins.dtype == torch.float32
    assert bins[127] == 0.0
    assert torch.equal(bins, -bins.flip(0))
    assert bins[-1].item() == pytest.approx(math.expm1(20.0))
    assert bins[128].item() == pytest.approx(math.expm1(20.0 / 127.0))
    torch.testing.assert_close(symlog(bins.double()).diff(), torch.full((254,), 20.0 / 127.0).double())
    few = [-math.expm1(20.0), -math.expm1(10.0), 0.0, math.expm1(10.0), math.expm1(20.0)]
    torch.testing.assert_close(symexp_bins(5), torch.tensor(few))


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (0.25, [0.0, 0.0, 0.75, 0.25, 0.0]),
        (-0.25, [0.0, 0.25, 0.75, 0.0, 0.0]),
        (2.0, [0.0, 0.0, 0.0, 0.5, 0.5]),
        (-2.5, [0.75, 0.25, 0.0, 0.0, 0.0]),
        (0.0, [0.0, 0.0, 1.0, 0.0, 0.0]),
        (1.0, [0.0, 0.0, 0.0, 1.0, 0.0]),
        (3.0, [0.0, 0.0, 0.0, 0.0, 1.0]),
        (-3.0, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (1e9, [0.0, 0.0, 0.0, 0.0, 1.0]),
        (-1e9, [1.0, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_two_hot_codes_and_their_cross_entropy(target: float, code: list[float]) -> None:
    lower, upper_mass = two_hot(torch.tensor([target]), BINS)
    coded = torch.zeros(5)
    coded[lower] += 1.0 - upper_mass
    coded[lower + 1] += upper_mass
    torch.testing.assert_close(coded, torch.tensor(code))
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.5, 0.1]], requires_grad=True)
    loss = TwoHot(logits, BINS).loss(torch.tensor([target]))
    probs = torch.softmax(logits.detach()[0], -1)
    torch.testing.assert_close(loss[0].detach(), -(torch.tensor(code) * probs.log()).sum())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[0], probs - torch.tensor(code))  # of cross-entropy


def test_the_two_hot_mean_is_the_expectation_and_exactly_zero_for_symmetric_masses() -> None:
    probs = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1], [0.0, 0.1, 0.2, 0.3, 0.4]])
    mean = TwoHot((probs + 1e-30).log(), BINS).mean
    torch.testing.assert_close(mean, torch.tensor([0.0, -0.1 + 0.3 + 1.2]))
    bins = symexp_bins(255)
    assert torch.equal(TwoHot(torch.zeros(3, 7, 255), bins).mean, torch.zeros(3, 7))
    half = torch.randn(4, 127, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([half, torch.ones(4, 1), half.flip(-1)], -1)
    assert torch.equal(TwoHot(logits, bins).mean, torch.zeros(4))
    assert TwoHot(torch.zeros(2, 255, dtype=torch.bfloat16), bins).mean.dtype == torch.float32


def test_autocast_does_not_round_the_two_hot_mean_and_loss() -> None:
    torch.manual_seed(0)
    logits, target = 3.0 * torch.randn(7, 255), 100.0 * torch.randn(7)
    exact = TwoHot(logits, symexp_bins(255))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = exact.mean, exact.loss(target)
    torch.testing.assert_close(rounded, (exact.mean, exact.loss(target)), rtol=0.0, atol=0.0)


def test_ids_are_classified_side_by_side() -> None:
    ids = Ids(torch.tensor([[0.0, math.log(3.0), 5.0, 5.0]]), 2)
    torch.testing.assert_close(ids.mean, torch.tensor([[0.25, 0.75, 0.5, 0.5]]))
    target = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    torch.testing.assert_close(ids.loss(target), torch.tensor([-math.log(0.75) - math.log(0.5)]))


def test_a_two_hot_code_is_predicted_back() -> None:
    bins = symexp_bins(255, dtype=torch.float64)
    targets = torch.tensor([0.0, 0.3, -17.0, 1234.5, -1e6], dtype=torch.float64)
    lower, upper_mass = two_hot(targets, bins)
    logits = torch.full((5, 255), -1e9, dtype=torch.float64)
    logits.scatter_(1, lower[:, None], torch.log1p(-upper_mass)[:, None])
    logits.scatter_(1, lower[:, None] + 1, upper_mass.log().clamp(min=-1e9)[:, None])
    torch.testing.assert_close(TwoHot(logits, bins).mean, targets)


def test_losses_of_several_targets_are_their_weighted_sum() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    head = TwoHot(logits, BINS)
    one, two = torch.linspace(-4, 4, 6), torch.linspace(2, -1, 6)
    torch.testing.assert_close(head.losses([one, two], [1.0, 0.3]), head.loss(one) + 0.3 * head.loss(two))


def test_regression_sums_squares_over_the_event_in_its_own_space() -> None:
    prediction = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    target = torch.tensor([[math.e - 1.0, 0.0], [1.0 - math.e, 0.0]])
    squashed, plain = Regression(prediction, 1, squash=True), Regression(prediction, 1)
    torch.testing.assert_close(squashed.loss(target), torch.tensor([0.0 + 4.0, 1.0 + 0.25]))
    torch.testing.assert_close(plain.loss(target), (prediction - target).square().sum(-1))
    torch.testing.assert_close(squashed.mean[0], torch.tensor([math.e - 1.0, -math.expm1(2.0)]))
    assert torch.equal(plain.mean, prediction)
    torch.testing.assert_close(Regression(prediction, 0).loss(target), (prediction - target).square())


def test_bernoulli_takes_probabilities_as_targets() -> None:
    head = Bernoulli(torch.tensor([0.0, math.log(3.0), math.log(3.0)]))
    torch.testing.assert_close(head.mean, torch.tensor([0.5, 0.75, 0.75]))
    expected = [math.log(2.0), -math.log(0.75), -0.5 * math.log(0.75) - 0.5 * math.log(0.25)]
    torch.testing.assert_close(head.loss(torch.tensor([0.3, 1.0, 0.5])), torch.tensor(expected))


def test_bounded_normal() -> None:
    raw_mean = torch.tensor([[math.atanh(0.5), 0.0]], requires_grad=True)
    policy = BoundedNormal(raw_mean, torch.tensor([[-2.0, -2.0]]), 0.1, 1.0)  # sigmoid(-2 + 2) is half way
    torch.testing.assert_close(policy.mode().detach(), torch.tensor([[0.5, 0.0]]))
    density = policy.log_prob(torch.tensor([[0.5, 0.55]]))
    assert density.item() == pytest.approx(-0.5 - 2.0 * math.log(0.55) - LOG_2PI, abs=1e-6)
    assert policy.entropy().item() == pytest.approx(2.0 * math.log(0.55) + LOG_2PI + 1.0, abs=1e-6)
    torch.testing.assert_close(policy.sample(torch.tensor([[1.0, -2.0]])).detach(), torch.tensor([[1.05, -1.1]]))
    (gradient,) = torch.autograd.grad(policy.sample(torch.ones(1, 2)).sum(), raw_mean)
    torch.testing.assert_close(gradient, torch.tensor([[0.75, 1.0]]))  # of tanh
    extremes = BoundedNormal(torch.zeros(2), torch.tensor([-100.0, 100.0]), 0.1, 1.0)
    torch.testing.assert_close(extremes.sample(torch.ones(2)), torch.tensor([0.1, 1.0]))


def tanh_normal() -> tuple[TanhNormal, Tensor, Tensor]:
    """A policy of two actions with means 5 tanh(0.4 / 5), -2 and deviations 0.6, 0.3, and those."""
    mean = torch.tensor([5.0 * math.atanh(0.4 / 5.0), 5.0 * math.atanh(-2.0 / 5.0)], dtype=torch.float64)
    std = torch.tensor([0.6, 0.3], dtype=torch.float64)
    raw = torch.log(torch.expm1(std - 0.1)) - math.log(math.expm1(5.0))
    return TanhNormal(mean, raw, 0.1), torch.tensor([0.4, -2.0], dtype=torch.float64), std


def test_tanh_normal_against_the_transformed_distribution() -> None:
    policy, mean, std = tanh_normal()
    torch.testing.assert_close(policy.mode(), torch.tanh(mean))
    twin = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, std), torch.distributions.TanhTransform()
    )
    action = torch.tensor([[0.9, -0.99], [-0.3, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(policy.log_prob(action), twin.log_prob(action).sum(-1))
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = policy.sample(noise)
    assert samples.abs().max() <= 1.0
    assert policy.entropy().item() == pytest.approx(-twin.log_prob(samples).sum(-1).mean().item(), abs=0.1)
    assert policy.log_prob(torch.ones(2)).isfinite()  # at the border
    first = TanhNormal(torch.zeros(1), torch.zeros(1), 1e-4)
    assert torch.atanh(first.sample(torch.tensor([0.1]))).item() == pytest.approx(0.5, rel=1e-3)  # 5 at the start


def test_truncated_normal_against_its_density() -> None:
    mean, raw = torch.tensor([0.7, -0.2]).double(), torch.tensor([-1.0, 0.5]).double()
    policy = TruncatedNormal(torch.atanh(mean), raw, 0.1)
    std = torch.tensor([2.0 / (1.0 + math.exp(0.5)) + 0.1, 2.0 / (1.0 + math.exp(-0.25)) + 0.1]).double()
    torch.testing.assert_close(policy.mode(), mean)
    edges = torch.linspace(-1.0, 1.0, 20_001).double()
    grid = 0.5 * (edges[1:] + edges[:-1])
    densities = torch.exp(-0.5 * ((grid[:, None] - mean) / std).square())
    densities /= densities.sum(0) * 1e-4  # two columns over (-1, 1)
    at = torch.tensor([9_000, 15_000])
    expected = densities[at, torch.tensor([0, 1])].log().sum()
    torch.testing.assert_close(policy.log_prob(grid[at]), expected, rtol=1e-6, atol=1e-6)
    entropy = -(densities * densities.log()).sum() * 1e-4
    torch.testing.assert_close(policy.entropy(), entropy, rtol=1e-6, atol=1e-6)
    noise = torch.special.ndtri((torch.arange(10_000).double() + 0.5) / 10_000)  # equally likely
    samples = policy.sample(noise[:, None].expand(-1, 2))
    assert samples.abs().max() < 1.0
    torch.testing.assert_close(samples.mean(0), (densities * grid[:, None]).sum(0) * 1e-4, rtol=0.0, atol=1e-4)
    second = (densities * grid[:, None].square()).sum(0) * 1e-4
    torch.testing.assert_close(samples.square().mean(0), second, rtol=0.0, atol=1e-4)


def test_truncated_normal_starts_as_dreamer_v2() -> None:
    """Deviation 1.1 around 0: nearly uniform over (-1, 1), where a squashed normal of deviation 5 is at its ends."""
    zeros = torch.zeros(1)
    policy = TruncatedNormal(zeros, zeros, 0.1)
    assert policy.std.item() == pytest.approx(1.1)
    inside = math.erf(1.0 / 1.1 / math.sqrt(2.0))
    at_0 = -math.log(1.1) - 0.5 * LOG_2PI - math.log(inside)
    assert policy.log_prob(zeros).item() == pytest.approx(at_0, abs=1e-6)
    assert policy.log_prob(torch.tensor([0.9])).item() == pytest.approx(at_0 - 0.5 * (0.9 / 1.1) ** 2, abs=1e-6)
    noise = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)[:, None]
    beyond = [
        (kind.sample(noise).abs() > 0.95).float().mean().item() for kind in (policy, TanhNormal(zeros, zeros, 0.0))
    ]
    assert beyond == pytest.approx([0.041, 0.714], abs=0.005)


@pytest.mark.parametrize("mean", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("std", [-30.0, 30.0])
def test_truncated_normal_is_finite_at_its_ends(mean: float, std: float) -> None:
    inputs = torch.tensor([mean], requires_grad=True), torch.tensor([std], requires_grad=True)
    policy = TruncatedNormal(*inputs, 0.1)
    for noise in (-5.5, 0.0, 5.5):
        action = policy.sample(torch.tensor([noise]))
        assert abs(action.item()) < 1.0
        total = action.sum() + policy.log_prob(action.detach()) + policy.entropy()
        gradients = torch.autograd.grad(total, inputs, retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_samples_of_a_truncated_normal_move_with_its_parameters() -> None:
    mean, raw = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.3, -0.4))
    noise = torch.tensor([[-1.3], [0.2], [0.9]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: TruncatedNormal(m, s, 0.1).sample(noise), (mean, raw))


def test_fixed_dimensions_of_an_action_are_zero_and_count_for_nothing() -> None:
    mean, std, noise = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    free = BoundedNormal(mean, std, 0.1, 1.0)
    policy = PartlyFixed(free, [0, 2], 4)
    action = policy.sample(noise[:, [0, 0, 1, 1]])
    assert torch.equal(action[:, [0, 2]], free.sample(noise))
    assert not action[:, [1, 3]].any()
    assert not policy.mode()[:, [1, 3]].any()
    assert torch.equal(policy.log_prob(action), free.log_prob(action[:, [0, 2]]))
    assert torch.equal(policy.entropy(), free.entropy())


def test_one_hot_mixes_a_share_of_the_uniform_into_everything() -> None:
    policy = OneHot(torch.tensor([100.0, 0.0, 0.0, 0.0]), unimix=0.04)
    torch.testing.assert_close(policy.probs, torch.tensor([0.97, 0.01, 0.01, 0.01]))
    assert policy.log_prob(torch.tensor([0.0, 1.0, 0.0, 0.0])).item() == pytest.approx(math.log(0.01))
    entropy = -0.97 * math.log(0.97) - 0.03 * math.log(0.01)
    assert policy.entropy().item() == pytest.approx(entropy)
    noise = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    drawn = OneHot(policy.log_probs.expand(200_000, 4)).sample(noise)
    assert torch.equal(drawn, OneHot(torch.tensor([100.0, 0, 0, 0]).expand(200_000, 4), 0.04).sample(noise))
    torch.testing.assert_close(drawn.mean(0), policy.probs, atol=1e-3, rtol=0.0)  # 4.5 standard errors
    assert torch.equal(policy.mode(), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert OneHot(torch.tensor([100.0, 0.0])).log_prob(torch.tensor([0.0, 1.0])).item() == pytest.approx(-100.0)


def test_one_hot_samples_by_inversion_and_passes_gradients_straight_through() -> None:
    logits = torch.tensor([0.2, 0.3, 0.5]).log().expand(7, 3)
    noise = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.51, 0.99, 1.0 - 2.0**-24])
    assert OneHot(logits).sample(noise).argmax(-1).tolist() == [0, 0, 1, 1, 2, 2, 2]
    leaf = torch.tensor([0.2, 0.3, 0.5]).log().requires_grad_()
    sample = OneHot(leaf, unimix=0.1).sample(torch.tensor(0.9))
    torch.testing.assert_close(sample.detach(), torch.tensor([0.0, 0.0, 1.0]))
    (gradient,) = torch.autograd.grad((sample * torch.tensor([1.0, 2.0, 4.0])).sum(), leaf)
    p, mean = torch.tensor([0.2, 0.3, 0.5]), 0.2 + 0.6 + 2.0
    torch.testing.assert_close(gradient, 0.9 * p * (torch.tensor([1.0, 2.0, 4.0]) - mean))
    assert not OneHot(leaf).detach().probs.requires_grad
