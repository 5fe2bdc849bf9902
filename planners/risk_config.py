"""Configuration of risk measures: one record per measure, told apart by `measure`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le

from envs.numbers import NonNegativeFloat, PositiveFloat, check_fields

RiskPart = Literal["both", "epistemic", "aleatoric"]
Tail = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class RiskConfig:
    """What all risk measures share.

    Args:
        measure: Tells the configurations apart.
        part: Which randomness counts. Particle p of P follows member p % K of an ensemble for the whole horizon
            (propagation "ts_inf"), so P returns are K members of P / K particles. "epistemic": the measure over the
            K means of the members. "aleatoric": the measure over the particles of each member, then the mean over the
            members. "both": the measure over all P. A lone model has K = 1: its particles differ by its noise only.

    Raises:
        ValueError: A field is out of range.
    """

    measure: Literal["mean", "mean_std", "var", "cvar", "worst", "entropic"]
    part: RiskPart = "both"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def parameter(self) -> float:
        """The one number of the measure, 0 where it has none."""
        return 0.0


@dataclass(frozen=True)
class MeanRisk(RiskConfig):
    """Risk neutral."""

    measure: Literal["mean"] = "mean"


@dataclass(frozen=True)
class MeanStdRisk(RiskConfig):
    """Mean - weight * standard deviation (Markowitz 1952). It penalises good luck as well, and is not monotone.

    Args:
        weight: Lambda.
    """

    measure: Literal["mean_std"] = "mean_std"
    weight: NonNegativeFloat = 0.5

    @property
    def parameter(self) -> float:
        """Lambda."""
        return self.weight


@dataclass(frozen=True)
class VarRisk(RiskConfig):
    """Value at risk: the alpha-quantile of the return.

    Args:
        alpha: The tail.
    """

    measure: Literal["var"] = "var"
    alpha: Tail = 0.2

    @property
    def parameter(self) -> float:
        """Alpha."""
        return self.alpha


@dataclass(frozen=True)
class CvarRisk(RiskConfig):
    """Conditional value at risk: the mean of the worst share alpha (Rockafellar & Uryasev 2002).

    Of P particles every alpha up to 1 / P is the worst case.

    Args:
        alpha: The tail.
    """

    measure: Literal["cvar"] = "cvar"
    alpha: Tail = 0.2

    @property
    def parameter(self) -> float:
        """Alpha."""
        return self.alpha


@dataclass(frozen=True)
class WorstRisk(RiskConfig):
    """The worst case over the particles."""

    measure: Literal["worst"] = "worst"


@dataclass(frozen=True)
class EntropicRisk(RiskConfig):
    """-log E[exp(-theta R)] / theta (Howard & Matheson 1972): about mean - theta / 2 * variance.

    Args:
        theta: Aversion, in 1 / units of the return.
    """

    measure: Literal["entropic"] = "entropic"
    theta: PositiveFloat = 1.0

    @property
    def parameter(self) -> float:
        """Theta."""
        return self.theta


Risk = MeanRisk | MeanStdRisk | VarRisk | CvarRisk | WorstRisk | EntropicRisk
"""Of one planner; a new measure is a record here and a case in native/src/risk.cc and its twin."""
