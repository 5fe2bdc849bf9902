"""The report page: complete, self-contained, and robust to runs that ended badly."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.report.data import read_evaluations, read_metrics
from cluster.report.page import _families, write_report

CONFIG = """format: 1
seed: 7
algorithm: {name: pets, members: 5}
env: {name: nav3d, note: "<script>alert(1)</script>"}
"""

VOID = {"meta", "img", "line", "circle", "polyline", "rect", "br"}


class Outline(HTMLParser):
    """Checks that tags are balanced and gathers the text and the addresses that a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "my run"
    (path / "eval").mkdir(parents=True)
    (path / "config.yaml").write_text(CONFIG)
    rows = [
        {
            "step": 500 * (i + 1),
            "time": 30.0 * (i + 1),
            "rollout/episode_return": float(i),
            "learner/loss_member_0": 1.0 / (i + 1),
            "learner/loss_member_1": 2.0 / (i + 1),
            "learner/updates": 10.0 * i,
            "timing/env_steps_per_second": 1000.0 + i,
        }
        for i in range(5)
    ]
    write_lines(path / "metrics.jsonl", rows)
    for step, rate in ((500, 0.25), (2500, 0.97)):
        summary = {
            "env": "nav3d",
            "algorithm": "pets",
            "episodes": 100,
            "seed": 0,
            "success_rate": rate,
            "success_ci95": [rate - 0.05, rate + 0.02],
            "return_mean": 9.5,
            "return_ci95": 0.25,
            "metrics": {"planning_ms": 0.125},
            "run_dir": str(path),
        }
        (path / "eval" / f"step{step}_seed0.json").write_text(json.dumps(summary))
    frames = [Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)) for i in range(3)]
    frames[0].save(path / "eval" / "step2500_seed0.gif", save_all=True, append_images=frames[1:], duration=100)
    write_lines(
        path / "events.jsonl",
        [
            {"event": "died", "part": "rollout-1", "reason": "killed & gone", "step": 900},
            {"event": "end", "step": 2500},
        ],
    )
    return path


def page_of(run_dir: Path) -> Outline:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return Outline(path.read_text())


def test_the_page_loads_nothing(run_dir: Path) -> None:
    page = page_of(run_dir)
    assert len(page.sources) == 1
    assert page.sources[0].startswith("data:image/gif;base64,R0lGOD")
    assert not re.search(r"url\(|@import|https?://", (run_dir / "report.html").read_text())
    assert "script" not in page.tags


def test_the_newest_evaluation_leads(run_dir: Path) -> None:
    text = page_of(run_dir).text
    assert "97%" in text
    assert "95 % in 92% to 99%" in text
    assert "± 0.25" in text
    assert text.index("97%") < text.index("Evaluation")
    assert "metrics.planning ms" in text
    assert "0.125" in text


def test_returns_of_the_newest_evaluation_are_shown(run_dir: Path) -> None:
    records = run_dir / "eval" / "step2500_seed0.jsonl"
    records.write_text("".join(f'{{"seed": 7, "return": {i * 0.5}}}\n' for i in range(100)))
    (run_dir / "eval" / "step500_seed0.jsonl").write_text('{"return": 1.0}\n')
    page = page_of(run_dir)
    assert "returns of 100 held-out episodes" in page.text
    assert "24.8" in page.text
    assert page.tags.count("rect") > 5
    records.write_text('{"return": "much"}\n{\n')
    assert "held-out episodes24.8" not in page_of(run_dir).text


def test_the_plot_of_a_fidelity_study_is_shown(run_dir: Path) -> None:
    (run_dir / "fidelity").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(run_dir / "fidelity" / "open_loop.png")
    page = page_of(run_dir)
    assert any(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "Open-loop fidelity" in page.text


def test_config_events_timings_and_versions_are_shown(run_dir: Path) -> None:
    text = page_of(run_dir).text
    assert "pets on nav3d · seed 7" in text
    assert "<script>alert(1)</script>" in text, "shown as text, so escaped in the page"
    assert "killed & gone" in text
    assert "env steps per second1k" in text, "the last value in the table of timings"
    for name in ("torch", "ray", "numpy"):
        assert name in text


def test_one_chart_for_members_and_one_for_each_other_metric(run_dir: Path) -> None:
    page = page_of(run_dir)
    assert page.tags.count("svg") == 4
    assert page.tags.count("polyline") == 5
    assert "loss member" in page.text


@pytest.mark.parametrize(
    ("marks", "text"),
    [(("DONE.json",), "finished"), (("STOPPED.json",), "stopped, can be resumed"), ((), "running or interrupted")],
)
def test_the_status_is_the_mark_of_the_run(run_dir: Path, marks: tuple[str, ...], text: str) -> None:
    for mark in marks:
        (run_dir / mark).write_text("{}")
    assert text in page_of(run_dir).text


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl", "events.jsonl", "eval"])
def test_missing_parts_are_left_out(run_dir: Path, missing: str) -> None:
    target = run_dir / missing
    if target.is_dir():
        for entry in target.iterdir():
            entry.unlink()
        target.rmdir()
    else:
        target.unlink()
    assert "my run" in page_of(run_dir).text


def test_damaged_files_do_not_stop_the_page(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'[1, 2]\n{"step": 1')
    (run_dir / "config.yaml").write_text("a: [1,\nb: }")
    (run_dir / "eval" / "step9000_seed0.json").write_text("{")
    (run_dir / "events.jsonl").write_bytes(b"\xff\xfe\nnull\n")
    text = page_of(run_dir).text
    assert "unreadable lines of metrics left out: 2" in text
    assert "97%" in text


def test_nan_metrics_and_empty_files(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "time": NaN, "learner/loss": NaN, "learner/updates": NaN}\n')
    assert "no finite values" in page_of(run_dir).text
    (run_dir / "metrics.jsonl").write_text("")
    assert "my run" in page_of(run_dir).text


def test_the_page_is_replaced(run_dir: Path) -> None:
    write_report(run_dir)
    (run_dir / "DONE.json").write_text("{}")
    assert "finished" in page_of(run_dir).text
    assert not list(run_dir.glob(".report*"))


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_metrics_keep_numbers_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2, "b": "x", "c": true, "d": null}\n{"a": 1}\n')
    metrics = read_metrics(path)
    assert [dict(row) for row in metrics.rows] == [{"step": 1.0, "a": 2.0}]
    assert metrics.unreadable == 1


def test_evaluations_are_in_numeric_order(tmp_path: Path) -> None:
    for step in (90, 1000, 200):
        (tmp_path / f"step{step}.json").write_text(json.dumps({"steps": step}))
    assert [summary["steps"] for summary in read_evaluations(tmp_path)] == [90, 200, 1000]


def test_families_differ_in_a_whole_number_only() -> None:
    names = ["learner/member_0/nll", "learner/member_11/nll", "learner/h10", "learner/h20", "replay/shard-1"]
    assert _families(names) == {
        "learner/member_*/nll": ["learner/member_0/nll", "learner/member_11/nll"],
        "learner/h10": ["learner/h10"],
        "learner/h20": ["learner/h20"],
        "replay/shard-*": ["replay/shard-1"],
    }
