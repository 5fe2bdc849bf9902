"""The run on Ray actors: the same parts, other wiring, and what happens when actors die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.audit import audit_run
from learner import checkpoint
from tests.chaos.leftovers import left_by
from tests.chaos.monkey import actor_pids, descendants

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


def start(run_dir: Path, *overrides: str, algo: str = "pets", flags: Sequence[str] = ()) -> subprocess.Popen[str]:
    """`worldfleet train` at debug scale as a process of its own, with a cluster of its own."""
    sets = [word for override in overrides for word in ("--set", override)]
    new = () if "--resume" in flags else ("--scale", "debug", "--algo", algo, "--run-dir", str(run_dir))
    command = [sys.executable, "-m", "worldfleet", "train", *new, *flags, *sets]
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**environment, "OMP_NUM_THREADS": "1"})


def wait_for(metrics: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has logged `step`."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    raise AssertionError(f"the run has not reached step {step}")


def test_a_run_ends_on_target_although_every_part_dies_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(
        run_dir,
        "schedule.total_steps=9000",
        "schedule.checkpoint_every=1000",
        "roles.learner.count=2",
        "cluster.ledger=true",
        "replay.durability.mode=sync",
    )
    wait_for(run_dir / "metrics.jsonl", 1024, process)
    for name in ("RolloutActor", "ServingActor", "ReplayShardActor", "LearnerActor", "WeightStoreActor"):
        pids = actor_pids(process.pid, name)
        assert pids, f"no {name} found"
        os.kill(pids[-1], 9)
        time.sleep(2.0)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert "actors: weights-0 replay-0 replay-1 learner-0 learner-1 planner-0 rollout-0 rollout-1" in log
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    died = {event["part"].partition("-")[0] for event in events if event["event"] == "died"}
    assert died == {"rollout", "planner", "replay", "learner", "weights"}
    assert events[-1]["event"] == "end"
    assert json.loads((run_dir / "DONE.json").read_text())["step"] >= 9000
    audit = audit_run(run_dir)
    assert (audit["lost"], audit["doubled"]) == (0, 0), audit
    assert audit["acknowledged"] >= 8000  # what died with a rollout actor was taken, and not acknowledged


def test_latent_policies_survive_their_inference_actor_and_a_learner_rank(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = "schedule.total_steps=3000", "roles.learner.count=2", "roles.inference.count=1"
    process = start(run_dir, *settings, algo="dreamer_v3")
    wait_for(run_dir / "metrics.jsonl", 1024, process)
    for name in ("ServingActor", "LearnerActor"):
        os.kill(actor_pids(process.pid, name)[-1], 9)
        time.sleep(2.0)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert "actors: weights-0 replay-0 replay-1 learner-0 learner-1 inference-0 rollout-0 rollout-1" in log
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert sorted(event["part"] for event in events if event["event"] == "died") == ["inference-0", "learner-1"]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    updates = [row["learner/updates"] for row in rows]
    assert updates == sorted(updates)
    assert updates[-1] > updates[0]


def test_a_spent_budget_ends_the_run_with_one_line_and_it_resumes(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(run_dir, "schedule.total_steps=6000", "actors.restarts=0")
    wait_for(run_dir / "metrics.jsonl", 1536, process)
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
    command = [sys.executable, "-m", "worldfleet", "train", "--resume", str(run_dir), "--set", "replay.num_shards=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 6000


@pytest.mark.timeout(600)  # three runs
def test_collecting_and_fitting_are_runs_of_their_own(tmp_path: Path) -> None:
    collected, fitted = tmp_path / "collected", tmp_path / "fitted"
    process = start(collected, "schedule.total_steps=1024", "schedule.fit_updates=6", "schedule.checkpoint_every=100")
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert stages(collected) == ["Fit(updates=6, part=None)"]
    last = lines(collected)[-1]
    assert (last["step"], last["learner/updates"], last["limiter/sampled"]) == (1024, 6, 0)

    settings = "schedule.fit_updates=400", "schedule.log_every=2", "schedule.pretrain_updates=3", "replay.num_shards=3"
    process = start(fitted, *settings, "replay.durability.mode=sync", flags=["--from-replay", str(collected)])
    deadline = time.monotonic() + 180
    while not lines(fitted) or lines(fitted)[-1]["learner/updates"] < 20:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.2)
    os.kill(actor_pids(process.pid, "LearnerActor")[-1], 9)
    time.sleep(1.0)
    process.terminate()
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert "actors: weights-0 replay-0 replay-1 replay-2 learner-0" in log
    process = start(fitted, "schedule.fit_updates=60", flags=["--resume", str(fitted)])
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert json.loads((fitted / "DONE.json").read_text())["step"] == 1024
    updates = [line["learner/updates"] for line in lines(fitted)]
    assert updates[-1] >= 63


def lines(run_dir: Path) -> list[dict[str, float]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def stages(run_dir: Path) -> list[str]:
    """Those that a run went on to."""
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [event["stage"] for event in events if event["event"] == "stage"]
