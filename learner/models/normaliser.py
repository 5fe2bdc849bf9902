"""Running mean and standard deviation as module buffers, exact under merging, of what is not an outlier.

One number of 1e38 among rewards of about 1 would make all others the same number for good. So the statistics are kept
apart by order of magnitude, and those of the magnitudes that are far above the others and rare count only while they
are not: whichever comes first, and however often a replay shows the same step again.

Letters: N rows, D features, C classes of magnitude.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUTLIER_FACTOR = 2.0**24
"""How many times larger than all regular values an outlier is: where float32 tells regular values no longer apart."""
OUTLIER_SHARE = 0.05
"""Share of the rows that outliers may have; more are regular values of another magnitude."""

_OCTAVES = 8  # of a class
_SMALL = 1  # class of the numbers below 2: they make none outlying that is of an ordinary size; class 0 is that of 0
_CLASSES = 18
_EMPTY = 3  # classes between outliers and regular values: 2 ** (_OCTAVES * _EMPTY) == OUTLIER_FACTOR


class RunningNormaliser(nn.Module):
    """Mean and variance of everything observed but the outliers, merged batch by batch in float64.

    The update is split in two so that data-parallel ranks can sum the statistics of their shares before
    merging: `statistics` of the shares add up, and every rank merges the same total (Chan et al. 1979, pairwise merge).

    A value is an outlier if it is more than `OUTLIER_FACTOR` times as large as 2 and as all regular ones of its
    feature, and outliers are no more than `OUTLIER_SHARE` of the rows. Zeros alone make nothing an outlier.

    Args:
        size: Number of features D.
    """

    counts: Tensor  # [C, D] weight of the values of each magnitude
    means: Tensor  # [C, D]
    m2s: Tensor  # [C, D] weighted sum of squares about their mean

    def __init__(self, size: int) -> None:
        super().__init__()
        for name in ("counts", "means", "m2s"):
            self.register_buffer(name, torch.zeros(_CLASSES, size, dtype=torch.float64))

    @property
    def count(self) -> Tensor:
        """Weight of all rows, outliers included."""
        return self.counts[:, 0].sum()

    @property
    def mean(self) -> Tensor:
        """float64 [D]; 0 before any data."""
        return self.moments()[0]

    def std(self) -> Tensor:
        """Population standard deviation, float64 [D]; 0 before any data."""
        return self.moments()[1]

    def statistics(self, values: Tensor, weights: Tensor) -> Tensor:
        """Additive statistics of a batch, about the current means.

        Args:
            values: [N, D].
            weights: [N], 0 leaves a row out.

        Returns:
            float64 [3 C D]: the weight of every magnitude and feature, and the weighted sums of `values - mean` and of
            its square.
        """
        wide, weights = values.double(), weights.double()[:, None]
        place = _magnitude(values)
        deviation = torch.where(weights > 0, wide - self.means.gather(0, place), 0.0)
        weighted = deviation * weights
        return _sums(place, torch.stack([weights.expand_as(wide), weighted, weighted * deviation])).flatten()

    def merge(self, statistics: Tensor) -> None:
        """Merge what `statistics` returned, summed over batches or ranks since the last merge."""
        added, total, squares = statistics.view(3, *self.counts.shape)
        self.counts.add_(added)
        shift = total / self.counts.clamp(min=1e-12)
        self.m2s.add_((squares - shift * total).clamp_(min=0.0))
        self.means.add_(shift)

    def outliers(self, values: Tensor) -> Tensor:
        """Which of the values [N, D] are outliers among all that was merged and these themselves.

        Values that are not finite are none: an update on them is not finite either, and skipped as a whole.
        """
        place = _magnitude(values)
        if len(place) == 0 or int(place.max()) <= _SMALL + _EMPTY:  # the usual case
            return torch.zeros_like(place, dtype=torch.bool)
        counts = self.counts + _sums(place, torch.ones_like(values, dtype=torch.float64)[None])[0]
        return (place >= _regular(counts).sum(0)) & values.isfinite()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [D] of the regular values."""
        regular = _regular(self.counts)
        counts = torch.where(regular, self.counts, 0.0)
        count = counts.sum(0).clamp(min=1e-12)
        means = torch.where(regular, self.means, 0.0)
        mean = (counts * means).sum(0) / count
        squares = torch.where(regular, self.m2s, 0.0) + counts * (means - mean).square()
        return mean, (squares.sum(0) / count).sqrt()


def _magnitude(values: Tensor) -> Tensor:
    """Class of each value: 0 for zeros, 1 for what is below 2, then one more for every `_OCTAVES`."""
    exponent = values.float().view(torch.int32).bitwise_right_shift(23).bitwise_and_(255)  # biased: 127 is that of 1
    place = exponent.bitwise_right_shift(3).sub_(127 // _OCTAVES - _SMALL).clamp_(min=_SMALL)
    return place.mul_(exponent > 0).long()


def _sums(place: Tensor, values: Tensor) -> Tensor:
    """Sums [K, C, D] of values [K, N, D] over the rows of each class of magnitude [N, D]."""
    size = place.shape[1]
    index = (place * size + torch.arange(size, device=place.device)).flatten()
    sums = values.new_zeros(len(values), _CLASSES * size)
    sums.scatter_add_(1, index.expand(len(values), -1), values.flatten(1))
    return sums.view(len(values), _CLASSES, size)


def _regular(counts: Tensor) -> Tensor:
    """Which classes [C, D] of magnitude hold regular values: all below the first outliers.

    Args:
        counts: [C, D] weight of the values of each.
    """
    present = counts > 0
    index = torch.arange(_CLASSES, device=counts.device)[:, None]
    highest = torch.where(present, index, 0).cummax(0).values
    below = F.pad(highest[:-1], (0, 0, 1, 0))  # the highest magnitude below each, 0 if there are only zeros
    share = counts.flip(0).cumsum(0).flip(0) / counts.sum(0).clamp(min=1e-12)  # of each class and those above it
    first = present & (below > 0) & (index - below > _EMPTY) & (share <= OUTLIER_SHARE)
    return first.int().cumsum(0) == 0
