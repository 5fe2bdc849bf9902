"""Failing simulators in the books of a run."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import override, resolve
from cluster.progress import Progress
from cluster.recorder import Recorder
from cluster.run_dir import RunDir
from envs.faults import Fault

FAULT = Fault(3, "exception", "step", 77, 2, 41, "OSError: gone", "Traceback ...")


def test_faults_are_counted_told_and_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = resolve("pets", "nav3d", "debug", overrides=["env.fault_budget=2"])
    run_dir = RunDir.create(tmp_path / "run", config)
    with closing(run_dir), closing(Recorder(config, run_dir, Progress(""))) as recorder:
        recorder.log({})
        recorder.rollout(512, [], {})
        with caplog.at_level(logging.WARNING):
            recorder.faults(1, 512, [FAULT])
        assert [record.getMessage() for record in caplog.records] == [
            "rollout-1, nav3d: environment 3 failed (exception) in step 41 of episode 2 after seed 77: OSError: gone; "
            "it is made again"
        ]
        recorder.faults(0, 512, [FAULT, replace(FAULT, kind="reward")])
        assert recorder.failure is None  # each actor has a budget of its own
        recorder.log({})
        state = recorder.state_dict()
    with closing(Recorder(config, run_dir, Progress(""), json.loads(json.dumps(state)))) as recorder:
        recorder.log({})
        recorder.faults(0, 10_000, [])
        recorder.faults(1, 512, [FAULT, replace(FAULT, kind="reward", step=5)])
        assert recorder.failure is not None
        assert recorder.failure.startswith(
            "rollout-1, nav3d: 3 faults of simulators in 1024 steps, env.fault_budget allows 2"
        )
        assert "in step 5 of episode 2 after seed 77" in recorder.failure
        recorder.fail("another")
        assert "another" not in recorder.failure
    lines = [json.loads(line) for line in run_dir.metrics_file.read_text().splitlines()]
    assert [line["env/faults"] for line in lines] == [0, 3, 3]
    assert (lines[-1]["env/faults_exception"], lines[-1]["env/faults_reward"]) == (2, 1)
    event, *others = [json.loads(line) for line in run_dir.events_file.read_text().splitlines()]
    assert len(others) == 4
    assert event == {
        "event": "fault",
        "actor": 1,
        "name": "nav3d",
        "env": 3,
        "kind": "exception",
        "where": "step",
        "seed": 77,
        "episode": 2,
        "step": 512,
        "episode_step": 41,
        "text": "OSError: gone",
        "traceback": "Traceback ...",
    }


def test_budget_and_time_limit_may_change_when_a_run_continues() -> None:
    config = resolve("pets", "nav3d", "debug")
    assert (config.env.fault_budget, config.env.step_timeout_seconds) == (20, 60.0)
    changed = override(config, ["env.fault_budget=100", "env.step_timeout_seconds=0", "env.mode=subprocess"]).env
    assert (changed.fault_budget, changed.step_timeout_seconds, changed.mode) == (100, 0.0, "subprocess")
    with pytest.raises(ValueError, match=r"not 'env\.name=nav3d_image'"):
        override(config, ["env.name=nav3d_image"])
