"""Pictures of several runs' learning curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.cli import main
from cluster.report.compare import compare


def write_run(run_dir: Path, rows: list[dict[str, Any]]) -> Path:
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("algorithm: {name: planet}\nenv: {name: nav3d}\n")
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


def test_points_are_written_beside_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = [
        {"step": 10, "time": 30.0, "rollout/success_rate": 0.25, "rollout/episode_return": -1.0},
        {"step": 20, "time": 90.0, "eval/success_rate": 0.5, "eval/return_mean": 2.00004, "loss": 3.0},
    ]
    runs = [write_run(tmp_path / "one", one), write_run(tmp_path / "two", one[:1])]
    output = tmp_path / "new" / "curves.png"
    with pytest.raises(SystemExit) as end:
        main(["compare", *map(str, runs), "--output", str(output)])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"{output}\n"
    with Image.open(output) as image:
        assert image.width > image.height
    assert output.with_suffix(".csv").read_text().splitlines() == [
        "run,step,minutes,metric,value",
        "one: planet on nav3d,10,0.5,rollout/success_rate,0.25",
        "one: planet on nav3d,10,0.5,rollout/episode_return,-1.0",
        "one: planet on nav3d,20,1.5,eval/success_rate,0.5",
        "one: planet on nav3d,20,1.5,eval/return_mean,2.0",
        "two: planet on nav3d,10,0.5,rollout/success_rate,0.25",
        "two: planet on nav3d,10,0.5,rollout/episode_return,-1.0",
    ]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", [{"step": 1, "time": 1.0, "rollout/episode_return": 1.0}])
    compare([run], tmp_path / "returns.svg")  # a run without successes
    (tmp_path / "sub").mkdir()
    for runs, name, message in (
        ([run], "curves.gif", "must end in .png or .svg, got curves.gif"),
        ([run, tmp_path], "curves.png", "has no metrics"),
        ([run, write_run(tmp_path / "new", [{"step": 1, "time": 1.0}])], "curves.png", "not finished an episode"),
        ([run, tmp_path / "sub" / ".." / "one"], "curves.png", "is named twice"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(runs, tmp_path / name)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    rows = [{"step": 1, "time": 60.0, "rollout/episode_return": 1.0}]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [write_run(tmp_path / parent / "one", rows) for parent in ("a", "b")]
    table = compare(runs, tmp_path / "curves.png").with_suffix(".csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in table[1:]] == [f"{run}: planet on nav3d" for run in runs]


def test_evaluations_made_afterwards_are_points_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", [{"step": 10, "time": 60.0, "rollout/episode_return": 1.0}])
    (run / "eval").mkdir()
    summary = {"train_steps": 10, "success_rate": None, "return_mean": 3.5}
    (run / "eval" / "step10_seed0.json").write_text(json.dumps(summary))
    (run / "eval" / "step10_seed1.json").write_text("{")
    table = compare([run], tmp_path / "curves.png").with_suffix(".csv").read_text().splitlines()
    assert table[1:] == [
        "one: planet on nav3d,10,1.0,rollout/episode_return,1.0",
        "one: planet on nav3d,10,1.0,eval/return_mean,3.5",
    ]


def test_no_file_is_replaced_unasked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "one", [{"step": 10, "time": 60.0, "rollout/episode_return": 1.0}])
    Path("curves.png").write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["compare", str(run)])
    assert end.value.code == 2
    assert capsys.readouterr().err == "worldfleet: error: curves.png exists and stays; name the picture with --output\n"
    assert Path("curves.png").read_text() == "mine"
    Path("other.csv").write_text("mine")
    compare([run], Path("other.png"))
    assert "other.csv was there and is replaced" in caplog.text
