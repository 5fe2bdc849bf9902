"""`ray job submit` on a real head node: readable actors, metrics, an orderly stop, and resumption."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.authentication import interface_addresses
from cluster.train import train
from learner import checkpoint
from learner.distributed import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A Ray head node of the test's own."""

    environment: dict[str, str]
    dashboard: str
    metrics_port: int
    gcs_port: int

    def ray(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [str(BIN / "ray"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, job: str, run_dir: Path, steps: int) -> None:
        stop_wait = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
        words = ("worldfleet", "train", "--scale", "debug", "--run-dir", str(run_dir), "--resume-auto")
        options = ("--no-wait", "--submission-id", job, "--runtime-env-json", stop_wait)

        def accepted() -> bool:  # a head answers before its job agent is there
            said = self.ray(
                "job", "submit", *options, "--", *words, "--set", f"schedule.total_steps={steps}", check=False
            )
            assert "submitted successfully" in said or "No available agent" in said, said
            return "submitted successfully" in said

        wait_for(accepted, "the job agent")

    def status(self, job: str) -> str:
        return self.ray("job", "status", job)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """`ray start --head` with ports and a directory of its own; stopped by the pid of its process group."""
    dashboard, metrics, gcs = free_port(), free_port(), free_port()
    temporary = Path("/tmp") / f"wf-{os.getpid()}"  # short: Ray's sockets live below it
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") or k.startswith("RAY_AUTH_")}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment["RAY_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    started = {k: v for k, v in environment.items() if k != "RAY_ADDRESS"}
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"]
    command += ["--dashboard-host=127.0.0.1", f"--temp-dir={temporary}", "--object-store-memory=300000000"]
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(command, env=started, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: reachable(f"{environment['RAY_ADDRESS']}/api/version"), "the dashboard", 240.0)
        yield Head(environment, environment["RAY_ADDRESS"], metrics, gcs)
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()
        shutil.rmtree(temporary, ignore_errors=True)


def with_token(url: str) -> urllib.request.Request:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    return urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})


def reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(with_token(url), timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.5)


def last_step(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


ASK = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)))
"""


def asked(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What the GCS at an address answers when it is asked for its nodes."""
    command = [sys.executable, "-c", ASK, address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def check_the_door(head: Head, tmp_path: Path) -> None:
    """Who has no token, or another one, is refused at every address of the machine."""
    address = f"{[ip for ip in interface_addresses() if ':' not in ip][-1]}:{head.gcs_port}"
    wait_for(lambda: asked(address, head.environment).stdout.strip() == "1", "the node")
    other = tmp_path / "token"
    other.write_text("0" * 64)
    without = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH_")}
    for environment in (
        {**without, "RAY_AUTH_MODE": "disabled"},
        {**head.environment, "RAY_AUTH_TOKEN_PATH": str(other)},
    ):
        refused = asked(address, environment)
        assert refused.returncode != 0
        assert "InvalidAuthToken" in refused.stderr or "Unauthenticated" in refused.stderr, refused.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{head.dashboard}/api/v0/actors?limit=100")


def test_submit_watch_stop_and_resume(head: Head, tmp_path: Path) -> None:
    check_the_door(head, tmp_path)
    run_dir = tmp_path / "run"
    head.submit("first", run_dir, steps=1_000_000)
    wait_for(lambda: last_step(run_dir) >= 500, "step 500")

    with urllib.request.urlopen(with_token(f"{head.dashboard}/api/v0/actors?limit=100")) as answer:
        actors = json.load(answer)["data"]["result"]["result"]
    alive = {actor["name"] for actor in actors if actor["state"] == "ALIVE"}
    assert alive >= {"weights-0", "rollout-0", "rollout-1", "planner-0", "learner-0", "replay-0", "replay-1"}

    def metrics_page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{head.metrics_port}/metrics", timeout=10) as page:
            return str(page.read().decode())

    names = ("rollout_steps_total", "learner_updates_total", "replay_steps", "serving_actions_total")
    wait_for(lambda: all(f"ray_worldfleet_{name}" in metrics_page() for name in names), "the run's metrics", 60.0)

    head.ray("job", "stop", "first")
    assert "was stopped" in head.status("first")
    assert json.loads((run_dir / "STOPPED.json").read_text())["reason"] == "SIGTERM"
    saved = checkpoint.latest(run_dir / "checkpoints")
    assert saved is not None
    stopped_at = checkpoint.step_of(saved)
    assert stopped_at >= 500

    # What the job left is a run like any other: it goes on, here in one process.
    target = f"schedule.total_steps={stopped_at + 100}"
    assert train(None, run_dir, resume=True, overrides=["cluster.mode=local", target]).reason == "done"
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "end", "changed", "resume", "end"]
    assert events[3]["step"] == stopped_at
