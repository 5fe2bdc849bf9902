"""Returns of imagined and replayed sequences, and their range.

Letters: N rows, H steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.distributed import Collective


def lambda_returns(reward: Tensor, discount: Tensor, value: Tensor, lambda_: float, continues: Tensor) -> Tensor:
    """TD(lambda) returns (Sutton and Barto 2018, eq. 12.18) of all steps but the last.

    R_t = r_{t+1} + d_{t+1} ((1 - l_{t+1}) v_{t+1} + l_{t+1} R_{t+1}), with R of the last step its value and
    l_{t+1} = `lambda_`, or 0 where the sequence is cut behind t + 1.

    Args:
        reward: [N, H + 1] received on arriving at each step; the first is not used.
        discount: [N, H + 1] of what follows each step, 0 at a terminal one; the first is not used.
        value: [N, H + 1] to bootstrap from.
        lambda_: Share of the longer returns.
        continues: [N, H + 1] 1 where the next step belongs to the same sequence, 0 where a return must bootstrap.

    Returns:
        [N, H].
    """
    mixing = lambda_ * continues[:, 1:]
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
        """Take the returns (of any shape, equal on every rank) into account; the scale, a scalar."""
        everyone = collective.gather(returns.flatten().to(self.average.dtype))
        self.average.lerp_(percentiles(everyone, self._ends), self._rate)
        return (self.average[1] - self.average[0]).clamp(min=self._limit)


def percentiles(values: Tensor, shares: Tensor) -> Tensor:
    """The quantiles `shares` [K] of values [N], interpolated linearly; any N, unlike torch.quantile."""
    ordered = values.sort().values
    position = shares * (len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)
