"""The run in one process: the same twice, and the same after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.config import RunConfig, resolve
from cluster.evaluation import evaluate_run
from cluster.local import LocalRun
from cluster.metrics import without_timing
from cluster.progress import Progress
from cluster.recorder import Recorder
from cluster.report import write_report
from cluster.run_dir import RunDir
from cluster.train import train
from learner import checkpoint

pytestmark = pytest.mark.integration


@pytest.fixture
def config() -> RunConfig:
    return resolve("pets", "nav3d", "debug", overrides=["cluster.mode=local", "seed=3"])


def test_two_runs_of_a_seed_write_the_same_metrics(config: RunConfig, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(config, tmp_path / name)
    a, b = (without_timing((tmp_path / name / "metrics.jsonl").read_text().splitlines()) for name in ("a", "b"))
    assert len(a) >= 4
    assert any("learner/loss" in line for line in a)
    assert a == b


def test_a_resumed_run_equals_an_uninterrupted_one(config: RunConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "whole")
    run_dir = RunDir.create(tmp_path / "parts", config)
    recorder = Recorder(config, run_dir, Progress(1, ""))

    class Killed(Exception):
        pass

    def save_then_die(parts: dict[str, object]) -> None:
        checkpoint.save(run_dir.checkpoints, recorder.steps, parts)
        raise Killed

    with pytest.raises(Killed):
        LocalRun(config, recorder).run(save_then_die, lambda: False)
    recorder.close()
    run_dir.close()
    train(None, tmp_path / "parts", resume=True)
    lines = [
        without_timing((tmp_path / name / "metrics.jsonl").read_text().splitlines()) for name in ("whole", "parts")
    ]
    assert lines[0] == lines[1]
    states = [checkpoint.load(_newest(tmp_path / name)) for name in ("whole", "parts")]
    for name, weights in states[0]["learner"]["algorithm"]["model"].items():
        np.testing.assert_array_equal(weights, states[1]["learner"]["algorithm"]["model"][name], err_msg=name)


def test_evaluation_report_and_marks_of_a_run(config: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config, run)
    assert json.loads((run / "DONE.json").read_text())["reason"] == "done"
    summary = evaluate_run(run, episodes=3, seed=0, gif_episodes=1)
    assert summary["episodes"] == 3
    assert summary.keys() >= {"env", "algorithm", "success_rate", "success_ci95", "return_mean", "return_ci95", "steps"}
    assert len(list((run / "eval").glob("*.gif"))) == 1
    assert sorted(path.name for path in (run / "models").iterdir())[:1] == ["world_model_member_0.pt"]
    assert "<html" in write_report(run).read_text()


def test_a_stop_leaves_a_checkpoint_and_a_mark(
    config: RunConfig, tmp_path: Path, raise_signal: Callable[[], None]
) -> None:
    raise_signal()
    outcome = train(config, tmp_path / "run")
    assert outcome.reason == "SIGTERM"
    assert outcome.exit_code == 0  # unless the configuration says otherwise: cluster.stop_exit_code
    assert json.loads((tmp_path / "run" / "STOPPED.json").read_text())["reason"] == "SIGTERM"
    assert checkpoint.step_of(_newest(tmp_path / "run")) == outcome.steps


@pytest.fixture
def raise_signal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Arranges for SIGTERM after the run's first training turn."""

    def arrange() -> None:
        import os
        import signal

        turn = LocalRun.train

        def train_then_signal(self: LocalRun) -> None:
            turn(self)
            os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(LocalRun, "train", train_then_signal)

    return arrange


def _newest(run: Path) -> Path:
    path = checkpoint.latest(run / "checkpoints")
    assert path is not None
    return path
