"""Metrics and the recorder: means, resumption, and what is due when."""

from __future__ import annotations

import json
import math
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from actors.records import Episode
from cluster.config import RunConfig, ScheduleConfig
from cluster.metrics import Metrics, without_incidentals
from cluster.progress import Progress
from cluster.recorder import Recorder
from cluster.run_dir import RunDir
from learner.distributed import free_port
from learner.means import sum_metrics


def test_a_line_holds_means_since_the_last_one(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.add({"loss": 1.0}, "learner/")
    metrics.add({"loss": 3.0, "broken": math.nan}, "learner/")
    assert (
        metrics.write(10, {"replay/steps": 7.0}).items()
        >= {
            "step": 10,
            "learner/loss": 2.0,
            "nan/learner/broken": 1.0,
            "replay/steps": 7.0,
        }.items()
    )
    metrics.add({"loss": 5.0}, "learner/")
    assert metrics.write(20, {})["learner/loss"] == 5.0
    metrics.close()


def test_resuming_cuts_lines_after_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "time": 2.5}\n{"step": 2, "time": 3.0}\n{"step": 3, "ti')
    metrics = Metrics(file, resumed=(2, 0))
    assert 3.0 <= metrics.elapsed < 4.0
    metrics.write(3, {})
    metrics.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]


def test_lines_that_cannot_be_read_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.jsonl"
    bad = ["{", "[1]", '{"step": 2}', '{"step": NaN, "time": 1}', '{"step": true, "time": 1}', "\ufffd" * 3]
    file.write_text("\n".join(['{"step": 1, "time": 2.5}', *bad, '{"step": 3, "time": 4.0}', ""]))
    Metrics(file, resumed=(3, 0)).close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 3]
    assert (tmp_path / "metrics.unreadable.jsonl").read_text().splitlines() == bad
    [message] = [record.getMessage() for record in caplog.records]
    assert message == f"{file}: line 2, 3, 4, 5, 6, 7 cannot be read and is moved to metrics.unreadable.jsonl"


def test_what_is_not_finite_is_null_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    metrics = Metrics(file)
    metrics.add({"loss": math.inf}, "learner/")
    line = metrics.write(10, {"x": math.nan, "y": 2.0})
    metrics.close()
    stored = json.loads(file.read_text())
    assert "NaN" not in file.read_text()
    assert "Infinity" not in file.read_text()
    assert stored | {"time": 0} == {
        "step": 10, "time": 0, "learner/loss": None, "x": None, "y": 2.0, "nan/learner/loss": 1.0, "nan/x": 1.0,
    }  # fmt: skip
    assert "x" not in line


def test_an_evaluation_and_a_line_come_after_the_last_step(tmp_path: Path) -> None:
    config = RunConfig(schedule=ScheduleConfig(total_steps=25, log_every=10, eval_every=10))
    run_dir = RunDir.create(tmp_path / "run", config)
    recorder = Recorder(config, run_dir, Progress("run"))
    seen = []
    for steps in (0, 10, 5, 10):
        recorder.rollout(steps, (), {})
        seen.append([recorder.due(what) for what in ("eval", "log", "eval", "log")])
    assert seen == [[False] * 4, [True, True, False, False], [False] * 4, [True, True, False, False]]
    again = Recorder(config, run_dir, Progress("run"), recorder.state_dict())
    assert not again.due("eval")
    recorder.close()
    again.close()
    run_dir.close()


def test_timing_fields_are_left_out() -> None:
    assert without_incidentals(['{"step": 1, "time": 5, "timing/x": 1, "loss": 2}']) == [{"step": 1, "loss": 2}]


def test_prometheus_endpoint_and_a_taken_port(tmp_path: Path) -> None:
    port = free_port()
    metrics = Metrics(tmp_path / "metrics.jsonl", prometheus_port=port)
    metrics.write(4, {"loss": 0.5})
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'worldfleet_metric{name="loss"} 0.5' in page
    with pytest.raises(ValueError, match=f"cluster.metrics_port {port} cannot be served: .*in use"):
        Metrics(tmp_path / "other.jsonl", prometheus_port=port)
    metrics.close()


def test_recorder_counts_and_continues(tmp_path: Path) -> None:
    config = RunConfig(schedule=ScheduleConfig(total_steps=30, log_every=10, eval_every=0, checkpoint_every=20))
    run_dir = RunDir.create(tmp_path / "run", config)
    recorder = Recorder(config, run_dir, Progress(""))
    recorder.rollout(12, [Episode(4.0, 6, 0, {"is_success": 1.0}), Episode(2.0, 6, 0, {"is_success": 0.0})], {})
    assert [recorder.due(what) for what in ("log", "log", "eval", "checkpoint")] == [True, False, False, False]
    assert recorder.due("checkpoint", or_after_seconds=0.0)
    recorder.log({})
    state = recorder.state_dict()
    recorder.close()
    again = Recorder(config, run_dir, Progress(""), state)
    again.rollout(18, [], {})
    assert again.finished
    assert again.due("log")
    assert again.due("checkpoint")
    again.log({})
    line = json.loads(run_dir.metrics_file.read_text().splitlines()[-1])
    assert (line["step"], line["rollout/episode_return"], line["rollout/success_rate"]) == (30, 3.0, 0.5)
    again.close()
    run_dir.close()


def test_recorder_invents_no_success(tmp_path: Path) -> None:
    config = RunConfig()
    run_dir = RunDir.create(tmp_path / "run", config)
    recorder = Recorder(config, run_dir, Progress(""))
    recorder.rollout(12, [Episode(4.0, 6, 0, {}), Episode(2.0, 6, 0, {})], {})
    recorder.log({})
    line = json.loads(run_dir.metrics_file.read_text())
    assert line["rollout/episode_return"] == 3.0
    assert "rollout/success_rate" not in line
    recorder.close()
    run_dir.close()


def test_sums_of_some_batches_give_the_means_of_each_alone(tmp_path: Path) -> None:
    """A lease of several batches, of which not all have a metric, counts as its batches do in one process."""
    batches = [{"loss": 1.0, "rare": 8.0, "time/wait": 2.0}, {"loss": 2.0}, {"loss": 6.0, "rare": 2.0}, {"loss": 7.0}]
    lines = []
    for name, reports in (
        ("alone", batches),
        ("leased", [sum_metrics(batches[:3]), sum_metrics(batches[3:])]),
    ):
        config = RunConfig()
        run_dir = RunDir.create(tmp_path / name, config)
        with closing(run_dir), closing(Recorder(config, run_dir, Progress(""))) as recorder:
            for report in reports:
                recorder.learner(4, report)
            recorder.log({})
        lines.append(json.loads(run_dir.metrics_file.read_text()))
    for name in ("learner/loss", "learner/rare", "timing/learner_wait"):
        assert lines[0][name] == lines[1][name]
    assert (lines[0]["learner/loss"], lines[0]["learner/rare"]) == (4.0, 5.0)


def test_skipped_updates_are_counted_and_noted(tmp_path: Path) -> None:
    config = RunConfig()
    run_dir = RunDir.create(tmp_path / "run", config)
    with closing(run_dir):
        with closing(Recorder(config, run_dir, Progress(""))) as recorder:
            recorder.learner(1, {"nonfinite": 1.0})
            recorder.learner(9, {"nonfinite": (2.0, 8)})
            recorder.learner(10, {"nonfinite": 0.0})
            state = recorder.state_dict()
        with closing(Recorder(config, run_dir, Progress(""), state)) as again:
            again.log({})
    assert json.loads(run_dir.metrics_file.read_text())["learner/nonfinite"] == 3.0
    events = [json.loads(line) for line in run_dir.events_file.read_text().splitlines()]
    assert [(event["skipped"], event["updates"]) for event in events if event["event"] == "nonfinite"] == [
        (1, 1),
        (2, 9),
    ]
