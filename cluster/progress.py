"""Live progress on stderr: a rich view on a terminal, one line an interval otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

logger = logging.getLogger(__name__)

SHOWN = {
    "rollout/episode_return": "return",
    "rollout/success_rate": "success",
    "learner/loss": "loss",
    "learner/validation_loss_smoothed": "validation",
    "timing/planning_ms": "plan ms",
    "replay/steps": "replay",
    "timing/env_steps_per_second": "steps/s",
    "timing/updates_per_second": "updates/s",
}
"""Metrics worth a look while waiting, with their short names."""


class Progress:
    """Shows the newest line of metrics while a run goes on.

    Args:
        title: Names the run.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        console = Console(stderr=True)
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, line: Mapping[str, float], done: int, total: int, unit: str) -> None:
        """Show one line of metrics, and how many steps or updates (`unit`) of the stage's are done."""
        seconds = line["time"]
        values = {short: line[name] for name, short in SHOWN.items() if name in line}
        if self._live is None:
            text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            logger.info("%s %d/%d  %.0f s  %s", unit, done, total, seconds, text)
            return
        table = Table(title=self._title, title_justify="left", expand=False)
        for name in (unit, "time", *values):
            table.add_column(name, justify="right")
        table.add_row(f"{done}/{total}", f"{seconds:.0f} s", *(f"{value:.4g}" for value in values.values()))
        self._live.update(table)
