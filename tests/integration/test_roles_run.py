"""Roles on Ray: one that a record adds, room that comes late, and room that never comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.config import resolve
from tests.cluster import fake_role

pytest.importorskip("ray")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


SMALL = ["replay.num_shards=1", "roles.rollout.count=1"]
"""Every actor is a process that has to start."""


def command(run_dir: Path, *overrides: str) -> list[str]:
    sets = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "worldfleet", "train", "--scale", "debug", "--run-dir", str(run_dir), *sets]


def test_one_record_adds_a_role_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.train import train

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    fake_role.install(monkeypatch)
    overrides = [*SMALL, "schedule.total_steps=512", "roles.pinger.count=2", "roles.pinger.stride=500"]
    run_dir = tmp_path / "run"
    assert train(resolve("pets", "nav3d", "debug", overrides=overrides), run_dir).reason == "done"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"pinger/count_0", "pinger/count_1"} <= set(rows[-1])
    assert rows[-1]["pinger/count_1"] >= 500


def test_a_run_waits_for_nodes_that_come_late(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        environment = {**os.environ, "RAY_ADDRESS": nodes.address, "OMP_NUM_THREADS": "1"}
        settings = *SMALL, "schedule.total_steps=300", "roles.rollout.resources.simulators=1"
        log = tmp_path / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(command(tmp_path / "run", *settings), stderr=stderr, env=environment)
        deadline = time.monotonic() + 120
        while "1 x rollout (0.25 CPU, 1 simulators) (" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        time.sleep(1.0)
        nodes.add_node(num_cpus=2, resources={"simulators": 2})
        assert process.wait(timeout=200) == 0, log.read_text()
    finally:
        nodes.shutdown()


def test_a_cluster_of_ones_own_refuses_at_once_what_it_never_has(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    settings = "roles.replay.labels.role=replay", "roles.rollout.resources.simulators=1"
    done = subprocess.run(
        command(tmp_path / "run", *settings), capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 2, done.stderr
    complaint = done.stderr.splitlines()[-1]
    assert complaint.startswith("worldfleet: error: the Ray cluster has no room for 2 x replay (0.1 CPU)")
    assert "on nodes with role=replay, 2 x rollout (0.25 CPU, 1 simulators): it has" in complaint
