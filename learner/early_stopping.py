"""Early stopping on a smoothed held-out loss, for data that keeps growing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Gt

from envs.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt, check_fields

Decision = Literal["continue", "improved", "stop", "stopped", "restart"]


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """When to stop updating and when to go on.

    Args:
        patience: Updates without an improvement after which updating stops, 0 never stops.
        smoothing: Held-out losses over which the loss is averaged (time constant); as many must come first.
        min_improvement: Share of the best loss by which the loss must fall to count as an improvement.
        growth: Factor by which the data must have grown since the last start for updating to start afresh.
    """

    patience: NonNegativeInt = 0
    smoothing: PositiveInt = 100
    min_improvement: NonNegativeFloat = 0.01
    growth: Annotated[float, Gt(1)] = 1.1

    def __post_init__(self) -> None:
        check_fields(self)


class EarlyStopping:
    """Says after every update whether to go on.

    A "restart" discards the best loss, which was measured on less data, and ends a stop if there is one. The caller
    keeps the weights of the last "improved" and returns to them on "stop".
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.config = config
        self.smoothed = 0.0
        self.stopped = False
        self._seen = 0
        self._best: float | None = None
        self._since_best = 0
        self._data_at_start = 0

    def observe(self, loss: float | None, data_seen: int) -> Decision:
        """Take in the held-out loss of one update.

        Args:
            loss: Held-out loss, None when the batch held out nothing; one that is not finite is left out.
            data_seen: Size of the data received so far.
        """
        if loss is not None and math.isfinite(loss):
            self._seen += 1
            self.smoothed += (loss - self.smoothed) / min(self._seen, self.config.smoothing)
        if self.config.patience == 0:
            return "continue"
        if data_seen >= self.config.growth * self._data_at_start or self._data_at_start == 0:
            self._best, self._since_best, self.stopped = None, 0, False
            self._data_at_start = data_seen
            return "restart"
        if self.stopped:
            return "stopped"
        return self._judge()

    def _judge(self) -> Decision:
        if self._seen < self.config.smoothing:
            return "continue"
        if self._best is None or self.smoothed < self._best - self.config.min_improvement * abs(self._best):
            self._best, self._since_best = self.smoothed, 0
            return "improved"
        self._since_best += 1
        self.stopped = self._since_best >= self.config.patience
        return "stop" if self.stopped else "continue"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the configuration."""
        return {
            "smoothed": self.smoothed,
            "stopped": self.stopped,
            "seen": self._seen,
            "best": self._best,
            "since_best": self._since_best,
            "data_at_start": self._data_at_start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.smoothed, self.stopped = state["smoothed"], state["stopped"]
        self._seen, self._best = state["seen"], state["best"]
        self._since_best, self._data_at_start = state["since_best"], state["data_at_start"]
