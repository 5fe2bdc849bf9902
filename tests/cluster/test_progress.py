"""What people see while they wait."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from cluster.cli import _Stderr
from cluster.progress import Progress, Waiting, duration, view

LINE = {"time": 12.0, "rollout/episode_return": 1.25, "learner/loss": 0.5, "timing/env_steps_per_second": 100.0}
LONG = {name: "1.234e+05" for name in ("return", "success", "loss", "validation", "plan ms", "replay", "steps/s")}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_picture_fits_the_width_and_says_what_is_left(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(view("pets on nav3d, seed 0: runs/a", LONG, ("step", 512, 4096), "12 s", 125.0))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "step 512/4,096 12 % 12 s 2:05 left" in text
    for name in LONG:
        assert f"{name} 1.234e+05" in text


def test_on_a_terminal_what_is_logged_scrolls_above_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"})
    monkeypatch.setattr(sys, "stderr", screen)
    handler = logging.StreamHandler(_Stderr())
    logger = logging.getLogger("worldfleet.test_progress")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with Progress("the run", console) as progress:
            progress.show(LINE, 100, 200, "step")
            assert sys.stderr is not screen
            logger.warning("replay-0 died; it is replaced")
            progress.show(LINE, 150, 200, "step")
        logger.warning("SIGINT: finishing the step")
    finally:
        logger.removeHandler(handler)
    shown = screen.getvalue()
    assert "replay-0 died; it is replaced\n" in shown
    assert shown.index("replay-0") < shown.rindex("step 150/200")
    assert shown.endswith("SIGINT: finishing the step\n")


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": "xterm"}])
def test_elsewhere_every_line_is_logged(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=io.StringIO(), force_terminal="dumb" in environ.values(), _environ=environ)
    with caplog.at_level(logging.INFO), Progress("the run", console) as progress:
        progress.show(LINE, 100, 200, "step")
        progress.show(LINE, 150, 200, "step")
    assert [record.getMessage() for record in caplog.records] == [
        "step 100/200  12 s  return 1.25  loss 0.5  steps/s 100",
        "step 150/200  12 s  0 s left  return 1.25  loss 0.5  steps/s 100",
    ]


def test_time_left_is_that_of_the_stage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr("cluster.progress.time.monotonic", lambda: now[0])
    progress = Progress("", Console(file=io.StringIO()))
    with caplog.at_level(logging.INFO):
        for moment, done, total, unit in ((0, 500, 1000, "step"), (10, 600, 1000, "step"), (20, 5, 50, "update")):
            now[0] = moment
            progress.show({"time": moment}, done, total, unit)
    assert ["left" in record.getMessage() for record in caplog.records] == [False, True, False]
    assert "10 s  40 s left" in caplog.records[1].getMessage()


def test_waiting_is_said_now_and_then_where_no_terminal_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr("cluster.progress.time.monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), Waiting("evaluating", Console(file=io.StringIO())) as waiting:
        for moment in (1.0, 9.0, 11.0, 12.0):
            now[0] = moment
            waiting.episodes(25, 100)
    assert [record.getMessage() for record in caplog.records] == ["evaluating: 25 of 100 episodes, 33 s left"]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.4, 59.6, 185, 7267)] == ["0 s", "59 s", "1:00", "3:05", "2:01:07"]
