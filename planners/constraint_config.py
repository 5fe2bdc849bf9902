"""Configuration of constraints: what a plan must not do, and how sure of it a planner must be.

Letters: S state size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Gt, Le

from envs.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, check_fields

Sphere = tuple[float, float, float, float]
Block = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Signal:
    """A function of predicted states whose negative values are violations.

    Args:
        kind: Tells the configurations apart.
    """

    kind: Literal["clearance", "time_to_collision", "bounds", "cost"]

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Clearance(Signal):
    """Distance in m of a point to the nearest obstacle or wall, less `margin`.

    Args:
        position: Indices of x, y and z in the state.
        spheres: Centres and radii.
        boxes: Centres and half extents of boxes along the axes.
        pillars: Centres and half extents of upright elliptic prisms, of which the first half extent is the radius.
        low: Corner of the room, empty for no room.
        high: The opposite corner.
        margin: What must remain, m; a body's radius and a reserve.
    """

    kind: Literal["clearance"] = "clearance"
    position: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt] = (0, 1, 2)
    spheres: tuple[Sphere, ...] = ()
    boxes: tuple[Block, ...] = ()
    pillars: tuple[Block, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    margin: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.spheres or self.boxes or self.pillars or self.low):
            raise ValueError("clearance needs spheres, boxes, pillars, or low and high")
        if len(self.low) != len(self.high) or len(self.low) not in (0, 3):
            raise ValueError(f"low and high must have 3 numbers each, got {self.low} and {self.high}")


@dataclass(frozen=True)
class TimeToCollision(Signal):
    """Seconds until a gap closes at its present rate, less `least`; far above it while the gap does not close.

    Args:
        gap: Index of the gap in the state, m.
        closing: Index of the speed at which it closes, m/s; positive means that it shrinks.
        least: What must remain, s.
    """

    kind: Literal["time_to_collision"] = "time_to_collision"
    gap: NonNegativeInt = 0
    closing: NonNegativeInt = 1
    least: PositiveFloat = 1.0


@dataclass(frozen=True)
class Bounds(Signal):
    """How far a number of the state is inside an interval, such as the lane offset on the road.

    Args:
        index: Of the number.
        least: Lower end.
        most: Upper end.
    """

    kind: Literal["bounds"] = "bounds"
    index: NonNegativeInt = 0
    least: float = -1.0
    most: float = 1.0


@dataclass(frozen=True)
class Cost(Signal):
    """The environment's declared cost, where the model predicts one: `limit` - cost of a step.

    Args:
        most: Cost of a step that is still no violation.
    """

    kind: Literal["cost"] = "cost"
    most: NonNegativeFloat = 0.5


@dataclass(frozen=True)
class ConstraintConfig:
    """A constraint over the particles of a plan, ranked feasible-first.

    "chance": the share of particles with a violation within the horizon is at most `limit`. "cvar": the mean over the
    worst share `alpha` of particles of their deepest violation within the horizon is at most `limit`, in the units of
    the signal. Steps after a predicted end of the episode count too: the constraint errs on the safe side.

    Args:
        signal: Where violations are.
        form: See above.
        limit: See above.
        alpha: Tail of "cvar".
        fallback: Action [A] that is held where no plan is feasible, the brake; empty takes what violates least.

    Raises:
        ValueError: A field is out of range.
    """

    signal: Clearance | TimeToCollision | Bounds | Cost = field(default_factory=Bounds)
    form: Literal["chance", "cvar"] = "chance"
    limit: NonNegativeFloat = 0.1
    alpha: Annotated[float, Gt(0), Le(1)] = 0.2
    fallback: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.form == "chance" and self.limit >= 1.0:
            raise ValueError(f"limit of a chance must be below 1, got {self.limit}")


@dataclass(frozen=True)
class GuardConfig:
    """A guard against exploiting the model: plans on which the members disagree more than in training lose score.

    The disagreement of a plan is the standard deviation over members of their mean predicted states, in standard
    deviations of the training states, averaged over state and horizon. What lies above `limit` costs `weight` each.

    Args:
        limit: The largest disagreement that was usual in training: a high quantile over stored sequences of the
            horizon's length, see planners.guard.usual_disagreement.
        weight: Score lost per unit of disagreement above it; 0 only measures.
    """

    limit: NonNegativeFloat = 0.1
    weight: NonNegativeFloat = 10.0

    def __post_init__(self) -> None:
        check_fields(self)
