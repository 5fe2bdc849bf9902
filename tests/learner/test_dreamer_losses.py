"""KL balance, free nats, and the losses of actor and critic, against literal values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learner.collective import Collective
from learner.losses.dreamer import ReturnRange, actor_loss, critic_loss, cumulative_weight, free_nats, kl_balance
from learner.models.distributions import BoundedNormal, OneHot, Regression, TwoHot
from learner.models.rssm import CategoricalLatent, GaussianLatent, Latent

BINS = torch.tensor([-1.0, 0.0, 1.0])


def test_kl_of_gaussians() -> None:
    one = GaussianLatent(torch.zeros(2, 3), torch.ones(2, 3))
    two = GaussianLatent(torch.ones(2, 3), torch.full((2, 3), 2.0))
    each = math.log(2.0) + (1.0 + 1.0) / 8.0 - 0.5
    torch.testing.assert_close(one.kl(two), torch.full((2,), 3.0 * each))
    assert one.entropy()[0].item() == pytest.approx(1.5 * math.log(2.0 * math.pi * math.e))


def test_kl_of_categoricals_has_the_uniform_share_on_both_sides() -> None:
    sure, other = torch.tensor([[[1000.0, 0.0, 0.0, 0.0]]]), torch.tensor([[[0.0, 1000.0, 0.0, 0.0]]])
    one, two = (CategoricalLatent(logits, unimix=0.04) for logits in (sure, other))
    # Without the share on either side this would be infinite, with it on one side only it would be ln 100.
    assert one.kl(two).item() == pytest.approx(0.96 * math.log(97.0), rel=1e-5)
    plain = CategoricalLatent(torch.tensor([[0.2, 0.8], [0.5, 0.5]]).log())
    flat = CategoricalLatent(torch.zeros(2, 2))
    expected = 0.2 * math.log(0.4) + 0.8 * math.log(1.6)
    assert plain.kl(flat).item() == pytest.approx(expected, rel=1e-5)  # summed over the two groups


def latents(kind: str, leaf: Tensor) -> Latent:
    if kind == "gaussian":
        return GaussianLatent(leaf[..., :2], 0.1 + leaf[..., 2:].exp())
    return CategoricalLatent(leaf, unimix=0.01)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_each_side_of_the_kl_trains_its_own_distribution(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    posterior, prior = (torch.randn(2, 3, 4, generator=generator).requires_grad_() for _ in range(2))
    dynamics, representation = kl_balance(latents(kind, posterior), latents(kind, prior))
    plain = latents(kind, posterior).kl(latents(kind, prior))
    torch.testing.assert_close(dynamics, plain)
    torch.testing.assert_close(representation, plain)
    of_plain = torch.autograd.grad(plain.sum(), (posterior, prior))
    on_prior = torch.autograd.grad(dynamics.sum(), (posterior, prior), allow_unused=True)
    on_posterior = torch.autograd.grad(representation.sum(), (posterior, prior), allow_unused=True)
    assert on_prior[0] is None
    assert on_posterior[1] is None
    torch.testing.assert_close(on_prior[1], of_plain[1])
    torch.testing.assert_close(on_posterior[0], of_plain[0])


@pytest.mark.parametrize(
    ("kl", "per_step", "value", "gradient"),
    [
        ([0.5, 2.0, 3.0, 0.9], True, (1.0 + 2.0 + 3.0 + 1.0) / 4.0, [0.0, 0.25, 0.25, 0.0]),
        ([0.5, 2.0, 3.0, 0.9], False, 1.6, [0.25] * 4),  # the mean is above
        ([0.1, 2.0, 0.5, 0.9], False, 1.0, [0.0] * 4),  # the mean is below
    ],
)
def test_free_nats(kl: list[float], per_step: bool, value: float, gradient: list[float]) -> None:
    leaf = torch.tensor([kl], requires_grad=True)
    loss = free_nats(leaf, 1.0, per_step, Collective())
    assert loss.item() == pytest.approx(value)
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [gradient]


def test_free_nats_of_the_batch_is_that_of_all_ranks() -> None:
    class WithHigher(Collective):
        def mean(self, value: Tensor) -> Tensor:
            return (value + 3.0) / 2.0

    leaf = torch.tensor([[0.5, 0.1]], requires_grad=True)
    free_nats(leaf, 1.0, False, WithHigher(0, 2)).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[0.5, 0.5]]


def gradient_of_actor(reinforce: float, entropy_weight: float = 0.0) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient to the logits, of one action in one state; its return grows with the action's logit."""
    logits = torch.tensor([[[0.2, 0.3, 0.5]]]).log().requires_grad_()
    action = torch.tensor([[[0.0, 1.0, 0.0]]])
    returns = 7.0 * logits[..., 1]
    advantage, weight = torch.tensor([[2.0]]), torch.tensor([[0.5]])
    loss, entropy = actor_loss(OneHot(logits), action, returns, advantage, weight, reinforce, entropy_weight)
    assert entropy.item() == pytest.approx(-sum(p * math.log(p) for p in (0.2, 0.3, 0.5)))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient[0, 0]


def test_reinforce_and_dynamics_take_their_shares() -> None:
    loss, reinforce = gradient_of_actor(1.0)
    assert loss.item() == pytest.approx(-0.5 * 2.0 * math.log(0.3))
    torch.testing.assert_close(reinforce, -0.5 * 2.0 * torch.tensor([-0.2, 0.7, -0.5]))
    loss, dynamics = gradient_of_actor(0.0)
    assert loss.item() == pytest.approx(-0.5 * 7.0 * math.log(0.3))
    torch.testing.assert_close(dynamics, torch.tensor([0.0, -3.5, 0.0]))
    _, mixed = gradient_of_actor(0.25)
    torch.testing.assert_close(mixed, 0.25 * reinforce + 0.75 * dynamics)


def test_the_entropy_bonus_is_weighted_and_maximised() -> None:
    p = torch.tensor([0.2, 0.3, 0.5])
    entropy = -(p * p.log()).sum()
    of_entropy = -p * (p.log() + entropy)
    _, without = gradient_of_actor(1.0)
    _, with_bonus = gradient_of_actor(1.0, entropy_weight=0.1)
    torch.testing.assert_close(with_bonus - without, -0.5 * 0.1 * of_entropy)


def test_reinforce_does_not_differentiate_the_action() -> None:
    mean = torch.zeros(1, 1, 2, requires_grad=True)
    policy = BoundedNormal(mean, torch.zeros(1, 1, 2), 0.1, 1.0)
    action = policy.sample(torch.ones(1, 1, 2))
    loss, _ = actor_loss(policy, action, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), 1.0, 0.0)
    (gradient,) = torch.autograd.grad(loss.sum(), mean)
    std = 0.9 / (1.0 + math.exp(-2.0)) + 0.1
    torch.testing.assert_close(gradient, torch.full((1, 1, 2), -1.0 / std))  # log-probability of one deviation


def test_the_critic_learns_returns_and_stays_near_the_slow_critic() -> None:
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log()
    target, slow = torch.tensor([0.25]), torch.tensor([-1.0])
    on_target, on_slow = -0.75 * math.log(0.3) - 0.25 * math.log(0.5), -math.log(0.2)
    assert critic_loss(TwoHot(logits, BINS), target, slow, 0.0).item() == pytest.approx(on_target)
    assert critic_loss(TwoHot(logits, BINS), target, slow, 1.0).item() == pytest.approx(on_target + on_slow)
    assert critic_loss(TwoHot(logits, BINS), target, slow, 0.5).item() == pytest.approx(on_target + 0.5 * on_slow)
    linear = Regression(torch.tensor([2.0]), 0)
    assert critic_loss(linear, target, slow, 0.5).item() == pytest.approx(1.75**2 + 0.5 * 9.0)


def test_imagined_steps_weigh_what_is_left_of_their_episode() -> None:
    continuation = torch.tensor([[0.5, 0.8, 0.0, 0.7], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(cumulative_weight(continuation, 1.0), torch.tensor([[0.5, 0.4, 0.0, 0.0], [1.0] * 4]))
    expected = torch.tensor([[0.5, 0.2, 0.0, 0.0], [1.0, 0.5, 0.25, 0.125]])
    torch.testing.assert_close(cumulative_weight(continuation, 0.5), expected)


def test_returns_that_are_not_finite_leave_the_range_where_it_was() -> None:
    spread = ReturnRange(0.5, (0.0, 100.0), 1.0, torch.device("cpu"), torch.float32)
    assert spread.update(torch.tensor([-4.0, 8.0]), Collective()).item() == 6.0
    for value in (math.nan, math.inf):
        assert math.isfinite(spread.update(torch.tensor([-2.0, value]), Collective()).item())
    assert spread.average.isfinite().all()
