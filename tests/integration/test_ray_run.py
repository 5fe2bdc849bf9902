"""The run on Ray actors: the same parts, other wiring, and what happens when actors die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.audit import audit_run
from cluster.config import resolve
from cluster.train import train
from learner import checkpoint
from tests.chaos.leftovers import left_by
from tests.chaos.monkey import actor_pids, descendants

pytestmark = [pytest.mark.integration, pytest.mark.timeout(700)]


def start(run_dir: Path, *overrides: str, algo: str = "pets", flags: Sequence[str] = ()) -> subprocess.Popen[str]:
    """`worldfleet train` at debug scale as a process of its own, with a cluster of its own."""
    sets = [word for override in overrides for word in ("--set", override)]
    new = () if "--resume" in flags else ("--scale", "debug", "--algo", algo, "--run-dir", str(run_dir))
    command = [sys.executable, "-m", "worldfleet", "train", *new, *flags, *sets]
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**environment, "OMP_NUM_THREADS": "1"})


def until(done: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something has happened to a run that goes on."""
    deadline = time.monotonic() + 180
    while not done():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.2)


def wait_for(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has logged `step`."""
    until(lambda: bool(lines(run_dir)) and lines(run_dir)[-1]["step"] >= step, process)


def kill_one(run_dir: Path, name: str, process: subprocess.Popen[str]) -> None:
    """Kill an actor of a class, and wait until the run has noticed."""
    before = len(events(run_dir, "died"))
    pids = actor_pids(process.pid, name)
    assert pids, f"no {name} found"
    os.kill(pids[-1], 9)
    until(lambda: len(events(run_dir, "died")) > before, process)


def test_a_run_ends_on_target_although_every_part_dies_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = (
        "schedule.total_steps=3000",
        "schedule.pretrain_updates=6",
        "schedule.checkpoint_every=1000",
        "roles.learner.count=2",
        "roles.inference.count=1",
        "cluster.ledger=true",
        "replay.durability.mode=sync",
    )
    process = start(run_dir, *settings, algo="dreamer_v3")
    wait_for(run_dir, 1024, process)
    for name in ("RolloutActor", "ServingActor", "ReplayShardActor", "LearnerActor", "WeightStoreActor"):
        kill_one(run_dir, name, process)
    _, log = process.communicate(timeout=500)
    assert process.returncode == 0, log
    assert "restart will fail" not in log
    assert "actors: weights-0 replay-0 replay-1 learner-0 learner-1 inference-0 rollout-0 rollout-1" in log
    died = {event["part"].partition("-")[0] for event in events(run_dir, "died")}
    assert died == {"rollout", "inference", "replay", "learner", "weights"}
    assert events(run_dir)[-1]["event"] == "end"
    assert json.loads((run_dir / "DONE.json").read_text())["step"] >= 3000
    stages = [event["stage"].partition("(")[0] for event in events(run_dir, "stage")]
    assert stages == ["Fit", "Interleave"]
    updates = [row["learner/updates"] for row in lines(run_dir)]
    assert updates == sorted(updates)
    assert updates[-1] > updates[0]
    audit = audit_run(run_dir)
    assert (audit["lost"], audit["doubled"]) == (0, 0), audit
    assert audit["acknowledged"] >= 2000  # what died with a rollout actor was taken, and not acknowledged


def test_a_spent_budget_ends_the_run_with_one_line_and_it_resumes(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, "schedule.total_steps=3000", "schedule.checkpoint_every=500", "actors.restarts=0")
    wait_for(run_dir, 1024, process)
    pids = {process.pid, *descendants(process.pid)}
    assert left_by(pids)  # the token and the shared memory of a run that lives
    os.kill(actor_pids(process.pid, "ReplayShardActor")[0], 9)
    _, log = process.communicate(timeout=200)
    assert process.returncode == 1, log
    assert left_by(pids) == []
    complaint = log.splitlines()[-1]
    assert complaint.startswith("worldfleet: error: replay-")
    assert "died 1 times, 0 restarts are allowed" in complaint
    assert f"--resume {run_dir}" in complaint
    assert checkpoint.latest(run_dir / "checkpoints") is not None
    assert train(None, run_dir, resume=True, overrides=["cluster.mode=local"]).reason == "done"
    steps = [line["step"] for line in lines(run_dir)]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 3000


def test_a_fit_of_stored_steps_goes_on_when_its_learner_dies(tmp_path: Path) -> None:
    collected, fitted = tmp_path / "collected", tmp_path / "fitted"
    stored = resolve("pets", "nav3d", "debug", overrides=["cluster.mode=local", "schedule.total_steps=1024"])
    train(stored, collected)

    settings = "schedule.fit_updates=100", "schedule.log_every=2", "schedule.pretrain_updates=3", "replay.num_shards=3"
    process = start(fitted, *settings, "replay.durability.mode=sync", flags=["--from-replay", str(collected)])
    until(lambda: bool(lines(fitted)) and lines(fitted)[-1]["learner/updates"] >= 20, process)
    os.kill(actor_pids(process.pid, "LearnerActor")[-1], 9)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert "actors: weights-0 replay-0 replay-1 replay-2 learner-0" in log
    assert [event["part"] for event in events(fitted, "died")] == ["learner-0"]
    assert json.loads((fitted / "DONE.json").read_text())["step"] == 1024
    assert lines(fitted)[-1]["learner/updates"] == 103


def lines(run_dir: Path) -> list[dict[str, float]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def events(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What is noted of the run, of one kind if one is named."""
    noted = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [event for event in noted if kind in (None, event["event"])]
