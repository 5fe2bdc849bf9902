"""Running mean and standard deviation as module buffers, exact under merging.

Letters: D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningNormaliser(nn.Module):
    """Mean and variance of everything observed, merged batch by batch in float64.

    The update is split in two so that data-parallel ranks can sum the statistics of their shares before
    merging: `statistics` of the shares add up, and every rank merges the same total (Chan et al. 1979, pairwise merge).

    Args:
        size: Number of features D.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(size, dtype=torch.float64))

    def statistics(self, values: Tensor, weights: Tensor) -> Tensor:
        """Additive statistics of a batch, about the current mean.

        Args:
            values: [N, D].
            weights: [N], 0 leaves a row out.

        Returns:
            float64 [1 + 2 D]: the weight, the weighted sum and the weighted sum of squares of `values - mean`.
        """
        weights = weights.double()
        kept = torch.where(weights[:, None] > 0, values.double() - self.mean, 0.0)
        weighted = kept * weights[:, None]
        return torch.cat([weights.sum()[None], weighted.sum(0), (weighted * kept).sum(0)])

    def merge(self, statistics: Tensor) -> None:
        """Merge what `statistics` returned, summed over batches or ranks since the last merge."""
        size = self.mean.numel()
        added, total, squares = statistics[0], statistics[1 : 1 + size], statistics[1 + size :]
        count = self.count + added
        safe = count.clamp(min=1e-12)
        shift = total / safe
        self.m2.add_((squares - shift * total).clamp_(min=0.0))
        self.mean.add_(shift)
        self.count.copy_(count)

    def std(self) -> Tensor:
        """Population standard deviation, float64 [D]; 0 before any data."""
        return (self.m2 / self.count.clamp(min=1e-12)).sqrt()
