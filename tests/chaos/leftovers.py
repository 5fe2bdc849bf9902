"""Starts runs on Ray that end, are stopped, fail or are killed, and says what they leave in /tmp and /dev/shm.

    python -m tests.chaos.leftovers --rounds 5 --folder runs/leftovers

A line of JSON per run: how it ended, and how many files of its processes are left; of a killed one also later.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from envs.scratch import owned_files
from tests.chaos.monkey import ROOT, actor_pids, descendants, kill_tree

ENDINGS = ("ended", "stopped", "failed", "killed")


def left_by(pids: Collection[int]) -> list[str]:
    """Files in /tmp and /dev/shm of these processes, living or dead."""
    return [str(path) for path, _ in owned_files() if any(f"-{pid}-" in path.name for pid in pids)]


def start(run_dir: Path, steps: int, *settings: str) -> subprocess.Popen[bytes]:
    """A run at debug scale with a cluster of its own."""
    sets = [word for setting in (f"schedule.total_steps={steps}", *settings) for word in ("--set", setting)]
    command = [sys.executable, "-m", "worldfleet", "train", "--scale", "debug", "--run-dir", str(run_dir), *sets]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    with run_dir.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)


def end(run: subprocess.Popen[bytes], ending: str, run_dir: Path) -> set[int]:
    """Let a run end in a way, once it takes steps; the processes it had."""
    pids = {run.pid}
    deadline = time.monotonic() + 180
    while not (run_dir / "metrics.jsonl").exists() or not (run_dir / "metrics.jsonl").read_text():
        assert run.poll() is None, run_dir.with_suffix(".log").read_text()
        assert time.monotonic() < deadline, "the run takes no steps"
        pids |= set(descendants(run.pid))
        time.sleep(0.2)
    pids |= set(descendants(run.pid))
    if ending == "stopped":
        run.send_signal(signal.SIGTERM)
    elif ending == "failed":
        os.kill(actor_pids(run.pid, "ReplayShardActor")[0], signal.SIGKILL)
    elif ending == "killed":
        kill_tree(run)
    run.wait(180)
    return pids


def measure(rounds: int, folder: Path) -> None:
    """Run all endings in turn and write a line for each."""
    killed: set[int] = set()
    for number in range(rounds):
        for ending in ENDINGS:
            run_dir = folder / f"{ending}-{number}"
            steps, restarts = (1500 if ending == "ended" else 10**8), (0 if ending == "failed" else 10)
            run = start(run_dir, steps, f"actors.restarts={restarts}")
            pids = end(run, ending, run_dir)
            line = {"run": run_dir.name, "exit": run.returncode, "left": len(left_by(pids))}
            line["left_by_killed_before"] = len(left_by(killed))
            killed = pids if ending == "killed" else killed
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    measure(options.rounds, options.folder)


if __name__ == "__main__":
    main()
