"""Configuration of `actors.reanalyze`."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.replay.draw.kinds import OldestConfig, SelectorConfig
from envs.numbers import Fraction, PositiveFloat, PositiveInt, check_fields

REANALYZE = "reanalyze"
"""The view that reanalyzers draw from."""


@dataclass(frozen=True)
class ReanalyzeConfig:
    """What becomes of targets that are stored.

    Args:
        fraction: Share of a batch's sequences that are trained towards the newest targets, where later searches have
            made any; the others keep those of the searches that acted. 0 does without later searches.
        selector: How steps are drawn: "oldest" takes those that were searched longest ago first, "prioritized" those
            of high priority, "uniform" any.
        batch_size: Steps that are searched together.
        steps_per_update: Steps that are searched for every update of the learner; null on Ray as many as can be, and
            in one process a batch for every update.
        noise: Whether searches have the noise of exploration.
    """

    fraction: Fraction = 0.0
    selector: SelectorConfig = field(default_factory=OldestConfig)
    batch_size: PositiveInt = 64
    steps_per_update: PositiveFloat | None = 64.0
    noise: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
