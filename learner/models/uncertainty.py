"""What an ensemble does not know, and what nobody could: the law of total variance.

The variance of the mixture of the members' predictions is the variance of their means, which more data would reduce
(epistemic), plus the mean of their variances, which it would not (aleatoric); Lakshminarayanan et al. 2017, Depeweg et
al. 2018.

Letters: K members, N rows, D predicted quantities.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Uncertainty:
    """Variances of a prediction by their cause."""

    epistemic: Tensor  # [N, D] of the members' means; 0 for one member
    aleatoric: Tensor  # [N, D] mean of the members' variances; 0 for deterministic members

    @property
    def total(self) -> Tensor:
        """[N, D]."""
        return self.epistemic + self.aleatoric


def decompose(mean: Tensor, logvar: Tensor | None) -> Uncertainty:
    """The uncertainty of predictions [K, N, D] with log-variances [K, N, D], or None for deterministic members."""
    epistemic = mean.var(0, correction=0)
    return Uncertainty(epistemic, epistemic.new_zeros(epistemic.shape) if logvar is None else logvar.exp().mean(0))
