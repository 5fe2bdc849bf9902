"""Losses of the Dreamer family.

Letters: B sequences, T steps, N rows (imagined sequences), H imagined steps, A action size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.distributed import Collective
from learner.models.distributions import Policy, Regression, TwoHot
from learner.models.rssm import Latent


def kl_balance(posterior: Latent, prior: Latent) -> tuple[Tensor, Tensor]:
    """The two sides of the KL (Hafner et al. 2025, eq. 3) [B, T], in nats.

    The dynamics side trains the prior towards a fixed posterior, the representation side the posterior towards a
    fixed prior. Their sum has the gradient of the plain KL.
    """
    return posterior.detach().kl(prior), posterior.kl(prior.detach())


def free_nats(kl: Tensor, least: float, per_step: bool, collective: Collective) -> Tensor:
    """The mean of kl [B, T], without a gradient where it is below `least`.

    Args:
        kl: In nats.
        least: Threshold.
        per_step: Whether it applies to every step, or to the mean over all ranks.
        collective: The ranks.
    """
    if per_step:
        return kl.clamp(min=least).mean()
    everyone = collective.mean(kl.detach().mean())
    return torch.where(everyone > least, kl.mean(), torch.full_like(everyone, least))


def actor_loss(
    policy: Policy,
    action: Tensor,
    returns: Tensor,
    advantage: Tensor,
    weight: Tensor,
    reinforce: float,
    entropy_weight: float,
) -> tuple[Tensor, Tensor]:
    """REINFORCE on the advantage mixed with the gradient through the returns (Hafner et al. 2021, eq. 6).

    Args:
        policy: At the H x N imagined states.
        action: [H, N, A] taken there.
        returns: [H, N] differentiable in the actions, where `reinforce` is below 1; in units of the advantage.
        advantage: [H, N] without gradients.
        weight: [H, N] probability that imagination got there, times the discount.
        reinforce: Share of REINFORCE.
        entropy_weight: Weight of the entropy bonus.

    Returns:
        Loss [H, N] and entropy [H, N].
    """
    entropy = policy.entropy()
    objective = entropy_weight * entropy
    if reinforce > 0.0:
        objective = objective + reinforce * policy.log_prob(action.detach()) * advantage
    if reinforce < 1.0:
        objective = objective + (1.0 - reinforce) * returns
    return -weight * objective, entropy


def critic_loss(value: TwoHot | Regression, target: Tensor, slow: Tensor, slow_weight: float) -> Tensor:
    """The critic's loss [...] on returns, and on the slow critic's predictions (Hafner et al. 2025, eq. 8)."""
    if slow_weight == 0.0:
        return value.loss(target)
    if isinstance(value, TwoHot):
        return value.losses([target, slow], [1.0, slow_weight])
    return value.loss(target) + slow_weight * value.loss(slow)


def cumulative_weight(continuation: Tensor, discount: float) -> Tensor:
    """Weights [N, H + 1] of imagined states: the discounted probability that their episode still goes on.

    Args:
        continuation: [N, H + 1] probabilities of going on behind each state; the first is that of a replayed state.
        discount: Factor per step that `continuation` does not hold already.
    """
    return torch.cumprod(discount * continuation, 1) / discount
