"""Live progress on stderr: a rich view on a terminal, one line an interval otherwise."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import TracebackType

from rich.columns import Columns
from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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
    """Shows the newest line of metrics while a run goes on; what is logged meanwhile scrolls above it.

    Args:
        title: Names the run.
        console: Where it is shown; stderr by default.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        console = console or Console(stderr=True)
        watched = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, refresh_per_second=4) if watched else None
        self._since: tuple[str, int, float, int] | None = None  # unit and total; time and count at the start

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
        values = {short: f"{line[name]:.4g}" for name, short in SHOWN.items() if name in line}
        elapsed, left = f"{line['time']:.0f} s", self._time_left(done, total, unit)
        if self._live is None:
            text = "  ".join(f"{name} {value}" for name, value in values.items())
            ending = "" if left is None else f"  {duration(left)} left"
            logger.info("%s %d/%d  %s%s  %s", unit, done, total, elapsed, ending, text)
            return
        self._live.update(view(self._title, values, (unit, done, total), elapsed, left))

    def _time_left(self, done: int, total: int, unit: str) -> float | None:
        """Seconds to the stage's end at its mean rate so far; None before anything can be said."""
        now = time.monotonic()
        if self._since is None or self._since[:2] != (unit, total):
            self._since = (unit, total, now, done)
        _, _, start, before = self._since
        return None if done <= before else max(0, total - done) * (now - start) / (done - before)


def view(
    title: str, values: Mapping[str, str], at: tuple[str, int, int], elapsed: str, left: float | None
) -> ConsoleRenderable:
    """The picture on a terminal: a bar, and as many metrics beside each other as its width takes.

    Args:
        title: Names the run.
        values: Metrics by short names.
        at: Unit, how many are done, and of how many.
        elapsed: How long it has taken.
        left: Seconds that are left, None if not known.
    """
    unit, done, total = at
    bar = Table.grid(padding=(0, 1), expand=False)
    ending = "" if left is None else f"{duration(left)} left"
    bar.add_row(
        ProgressBar(total=max(total, 1), completed=min(done, total), width=20),
        Text(f"{unit} {done:,}/{total:,}", no_wrap=True),
        Text(f"{100 * done // max(total, 1)} %", no_wrap=True),
        Text(elapsed, no_wrap=True),
        Text(ending, no_wrap=True),
    )
    metrics = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in values.items()]
    return Group(Text(title, overflow="fold"), bar, Columns(metrics, padding=(0, 2)))


def duration(seconds: float) -> str:
    """A time span for people: 42 s, 3:05, 2:01:07."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Waiting:
    """Says how far a command is: a line that overwrites itself on a terminal, one every 10 s otherwise.

    Args:
        what: Names the work.
        console: Where it is shown; stderr by default.
    """

    def __init__(self, what: str, console: Console | None = None) -> None:
        self._what, self._console = what, console or Console(stderr=True)
        self._status = self._console.status(f"{what} ...") if self._console.is_terminal else None
        self._begun = self._said = time.monotonic()

    def __enter__(self) -> Waiting:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def episodes(self, ended: int, total: int) -> None:
        """So many episodes of an evaluation have ended."""
        self.at(ended, total, "episodes")

    def at(self, done: int, total: int, unit: str) -> None:
        """So many units of the work are done."""
        now = time.monotonic()
        left = f", {duration((total - done) * (now - self._begun) / done)} left" if 0 < done < total else ""
        text = f"{self._what}: {done} of {total} {unit}{left}"
        if self._status is not None:
            self._status.update(text)
        elif now - self._said >= 10.0:
            self._said = now
            logger.info("%s", text)
