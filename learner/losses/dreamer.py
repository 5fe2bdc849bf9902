"""Losses, returns and their range of the Dreamer family, in float32 whatever the width of the networks.

Letters: B sequences, T steps, N rows (sequences, imagined or replayed), H steps of a row, A action size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.collective import Collective
from learner.models.distributions import Policy, Regression, TwoHot, widened
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


def critic_loss(value: TwoHot | Regression, target: Tensor, slow: Tensor | None, slow_weight: float) -> Tensor:
    """The critic's loss [...] on returns, and on the slow critic's predictions (Hafner et al. 2025, eq. 8), if any."""
    if slow is None:
        return value.loss(target)
    if isinstance(value, TwoHot):
        return value.losses([target, slow], [1.0, slow_weight])
    return value.loss(target) + slow_weight * value.loss(slow)


def cumulative_weight(continuation: Tensor, discount: float) -> Tensor:
    """Weights [N, H + 1] of imagined states: the discounted probability that their episode has not ended.

    Args:
        continuation: [N, H + 1] probability that the episode continues after each state; the first is a replayed one.
        discount: Factor per step, 1 if `continuation` holds it already.
    """
    return torch.cumprod(discount * widened(continuation), 1) / discount


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float, continuation: Tensor) -> Tensor:
    """TD(lambda) returns (Sutton and Barto 2018, eq. 12.18) of all steps but the last.

    R_t = r_{t+1} + d_{t+1} ((1 - l_{t+1}) v_{t+1} + l_{t+1} R_{t+1}), with R of the last step its value and
    l_{t+1} = `lambda_`, or 0 where the sequence is cut after t + 1.

    Args:
        reward: [N, H + 1] received on arriving at each step; the first is not used.
        discount: [N, H + 1] of what follows each step, 0 at a terminal one; the first is not used.
        value: [N, H + 1] to bootstrap from.
        lambda_: Share of the longer returns.
        continuation: [N, H + 1] 1 where the next step is of the same episode, 0 where a return must bootstrap.

    Returns:
        [N, H].
    """
    reward, discount, value, continuation = map(widened, (reward, discount, value, continuation))
    mixing = lambda_ * continuation[:, 1:]
    interim = reward[:, 1:] + (1.0 - mixing) * discount[:, 1:] * value[:, 1:]
    weight = discount[:, 1:] * mixing
    following = value[:, -1]
    returns = []
    for step, share in zip(reversed(interim.unbind(1)), reversed(weight.unbind(1)), strict=True):
        following = torch.addcmul(step, share, following)
        returns.append(following)
    return torch.stack(returns[::-1], 1)


class ReturnRange:
    """Moving average of two percentiles of the returns of all ranks (Hafner et al. 2025, eq. 7).

    Args:
        rate: Share of a new percentile.
        percentiles: The two ends, in [0, 100].
        limit: Smallest scale.
        device: Where to keep the averages.
        dtype: Their width.
    """

    def __init__(
        self, rate: float, percentiles: tuple[float, float], limit: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._rate, self._limit = rate, limit
        self._ends = torch.tensor(percentiles, device=device, dtype=dtype) / 100.0
        self.average = torch.zeros(2, device=device, dtype=dtype)

    @torch.no_grad()
    def update(self, returns: Tensor, collective: Collective) -> Tensor:
        """Replace `average` by one moved toward the returns, of any shape; it is equal on every rank.

        An end that is not finite stays where it was.

        Returns:
            The range, a scalar, at least `limit`.
        """
        everyone = collective.gather(returns.flatten().to(self.average.dtype))
        moved = self.average.lerp(percentiles(everyone, self._ends), self._rate)
        self.average = torch.where(moved.isfinite(), moved, self.average)
        return (self.average[1] - self.average[0]).clamp(min=self._limit)


def percentiles(values: Tensor, shares: Tensor) -> Tensor:
    """The quantiles `shares` [K] of values [N], interpolated linearly; any N, unlike torch.quantile."""
    ordered = values.sort().values
    position = shares * (len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)
