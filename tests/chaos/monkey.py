"""Kills and stops the processes of a training run at random and audits what is left of it.

    python -m tests.chaos.monkey --seconds 600 --seed 0 --run-dir runs/chaos
    python -m tests.chaos.monkey --seconds 60 --victims ReanalyzeActor --run-dir runs/reanalyzers

The run trains on an environment that counts its steps, through Ray, with a durable replay and a ledger of every
acknowledgement. At random moments one of its processes dies by SIGKILL, the driver too, which is then resumed, or
stands still by SIGSTOP for longer than the run waits for it. At the end the run must reach its target, and its replay
must hold every acknowledged step once, with the right content, and no target that is older than what it replaced.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.replay.shard import ReplayShard
from cluster import build
from cluster.audit import audit_run
from cluster.ending import Process, read_process
from cluster.roles import ROLES
from cluster.run_dir import RunDir
from envs.testing.counter import COUNTER_NAME
from learner.searched import FRESH_VERSION
from tests.fakes import check_sequences

ROOT = Path(__file__).resolve().parents[2]
VICTIMS = {
    "ReplayShardActor": (3, 2),
    "RolloutActor": (2, 1),
    "environment worker": (2, 2),
    "ServingActor": (1, 1),
    "LearnerActor": (2, 1),
    "ReanalyzeActor": (2, 2),
    "WeightStoreActor": (1, 1),
    "driver": (1, 0),
}
"""Processes by the class of their actor, and how often in a round they are killed and stopped, in random order."""

SETTINGS = (
    "replay.durability.mode=sync",
    "replay.num_shards=3",
    "replay.chunk_steps=256",
    "replay.max_bytes=2000000000",
    "cluster.ledger=true",
    "roles.learner.count=2",
    "env.mode=subprocess",
    "algorithm.observation_keys=[state]",
    "reanalyze.fraction=0.5",
    "reanalyze.steps_per_update=256",
    "roles.reanalyze.count=2",
    "env.fault_budget=10000",
    "actors.restarts=10000",
    "schedule.checkpoint_every=2000",
    "schedule.log_every=500",
    "schedule.total_steps=100000000",
)


@dataclass
class Chaos:
    """One run and its tormentor.

    Args:
        run_dir: Directory of the run, new.
        seed: Chooses whom to kill and when.
        mean_seconds: Mean time between two of them.
        stop_seconds: How long a process stands still; the run waits for a third of it.
        victims: Keys of `VICTIMS` that are harmed.
    """

    run_dir: Path
    seed: int = 0
    mean_seconds: float = 4.0
    stop_seconds: float = 60.0
    victims: Sequence[str] = tuple(VICTIMS)
    kills: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    _round: list[tuple[str, bool]] = field(default_factory=list)  # who is still to be killed or stopped in it
    _stopped: list[tuple[float, Process]] = field(default_factory=list)  # and when each goes on
    _driver: subprocess.Popen[bytes] | None = None

    def run(self, seconds: float) -> dict[str, Any]:
        """Torment a run for `seconds`, let it end, and audit it; the summary.

        Raises:
            AssertionError: The run ended by itself, did not reach its target, or its replay is wrong.
        """
        try:
            return self._torment(seconds)
        finally:
            if self._driver is not None and self._driver.poll() is None:
                kill_tree(self._driver)

    def _torment(self, seconds: float) -> dict[str, Any]:
        rng = random.Random(self.seed)
        waits = [f"roles.{role}.timeout_seconds={self.stop_seconds / 3}" for role in ROLES]
        waits.append(f"env.step_timeout_seconds={self.stop_seconds / 3}")
        sets = [word for setting in (*SETTINGS, *waits) for word in ("--set", setting)]
        presets = ("--algo", "sampled_muzero", "--env", COUNTER_NAME, "--scale", "debug")
        driver = self.start(*presets, "--run-dir", str(self.run_dir), *sets)
        self.wait_for_steps(driver, 1)
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            time.sleep(min(rng.expovariate(1 / self.mean_seconds), 3 * self.mean_seconds))
            self.let_go(time.monotonic())
            driver = self.harm_one(driver, rng)
        driver.send_signal(signal.SIGTERM)  # while some stand still
        assert driver.wait(180) == 0, self.tail()
        self.let_go(math.inf)
        marker = json.loads((self.run_dir / "STOPPED.json").read_text())
        target = marker["step"] + 1000
        driver = self.start("--resume", str(self.run_dir), "--set", f"schedule.total_steps={target}")
        assert driver.wait(300) == 0, self.tail()
        done = json.loads((self.run_dir / "DONE.json").read_text())
        assert done["step"] >= target
        summary = audit_run(self.run_dir)
        summary |= {
            "seconds": round(time.monotonic() - start),
            "seed": self.seed,
            "kills": dict(self.kills),
            "stops": dict(self.stops),
        }
        checked, fresh = check_contents(self.run_dir)
        summary |= {"target": target, "end": done["step"], "checked": checked, "fresh": fresh}
        return summary

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`worldfleet train` with a cluster of its own."""
        environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
        folders = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": folders}
        command = [sys.executable, "-m", "worldfleet", "train", *arguments]
        with self.run_dir.with_suffix(".log").open("ab") as log:
            self._driver = subprocess.Popen(command, stderr=log, stdout=log, env=environment, cwd=ROOT)
        return self._driver

    def harm_one(self, driver: subprocess.Popen[bytes], rng: random.Random) -> subprocess.Popen[bytes]:
        """Kill or stop one process; the driver that goes on."""
        assert driver.poll() is None, self.tail()
        if not self._round:
            for victim in self.victims:
                self._round += [(victim, stop) for stop in (False, True) for _ in range(VICTIMS[victim][stop])]
            rng.shuffle(self._round)
        victim, stop = self._round.pop()
        if victim != "driver":
            pids = actor_pids(driver.pid, victim)
            process = read_process(rng.choice(pids)) if pids else None
            if process is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGSTOP if stop else signal.SIGKILL)
                    (self.stops if stop else self.kills)[victim] += 1
            if process is not None and stop:
                self._stopped.append((time.monotonic() + self.stop_seconds, process))
            return driver
        kill_tree(driver)
        self.kills[victim] += 1
        steps = self.steps()
        driver = self.start("--resume", str(self.run_dir))
        self.wait_for_steps(driver, steps + 1)
        return driver

    def let_go(self, now: float) -> None:
        """Let the processes go on that have stood still for long enough, if they are still there."""
        for until, process in list(self._stopped):
            if until <= now:
                self._stopped.remove((until, process))
                there = read_process(process.pid)
                if there is not None and there.started == process.started:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGCONT)

    def steps(self) -> int:
        """Environment steps of the newest line of metrics."""
        file = self.run_dir / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def wait_for_steps(self, driver: subprocess.Popen[bytes], steps: int) -> None:
        """Wait until the run has logged `steps`."""
        deadline = time.monotonic() + 180
        while self.steps() < steps:
            assert driver.poll() is None, self.tail()
            assert time.monotonic() < deadline, f"no progress to step {steps}: {self.tail()}"
            time.sleep(0.2)

    def tail(self) -> str:
        """The end of the run's log."""
        return self.run_dir.with_suffix(".log").read_text()[-4000:]


def check_contents(path: Path) -> tuple[int, int]:
    """Check every stored step of a finished run, and every target; how many there are of each.

    Steps are compared with what the environment counts, targets as `check_targets` says.
    """
    run_dir, config = RunDir.open(path)
    replay = build.replay(config, run_dir.replay, None, tail=True)
    checked = 0
    for stream_id, (start, end) in replay.streams().items():
        for low in range(start, end, 4096):
            batch = replay.read(stream_id, low, min(4096, end - low))
            check_sequences(batch)
            checked += int(np.prod(batch.shape))
    fresh = sum(check_targets(shard) for shard in replay.shards)
    replay.close()
    return checked, fresh


def check_targets(shard: ReplayShard) -> int:
    """Check that no later search was of older weights than what it replaced, and was written whole; how many there are.

    Weights of a search are never older than those that acted, and all keys of a search have its version. A run
    without searches has none.
    """
    store = shard._store
    assert store is not None
    if FRESH_VERSION not in store.data:
        return 0
    rows = store.stored_rows()
    found, acted = store.data[FRESH_VERSION][rows], store.version[rows]
    assert ((found == 0) | (found >= acted)).all()
    for key, versions in store.rewrites._versions.items():
        np.testing.assert_array_equal(versions[rows], np.maximum(found, acted), err_msg=key)
    return int(np.count_nonzero(found))


def process_table() -> list[tuple[int, int, str]]:
    """(pid, parent, command) of every process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return [(int(row[0]), int(row[1]), row[2]) for row in rows if len(row) == 3]


def descendants(parent: int) -> list[int]:
    """Processes that descend from `parent`."""
    parents = {pid: ppid for pid, ppid, _ in process_table()}

    def descends(pid: int) -> bool:
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == parent:
                return True
        return False

    return [pid for pid in parents if descends(pid)]


def actor_pids(driver: int, class_name: str) -> list[int]:
    """Processes of the actors of a class in the cluster that `driver` started, or its environment workers."""
    ours = set(descendants(driver))
    mark = "multiprocessing.spawn import spawn_main" if class_name == "environment worker" else f"ray::{class_name}"
    return [pid for pid, _, args in process_table() if mark in args and pid in ours]


def kill_tree(driver: subprocess.Popen[bytes]) -> None:
    """Kill a driver and wait until its cluster is gone."""
    children = descendants(driver.pid)
    driver.kill()
    driver.wait()
    for pid in children:
        process = read_process(pid)
        if process is not None and process.state == "T":  # it would not notice
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    wait_for_end(children)


def wait_for_end(pids: list[int], seconds: float = 60.0) -> None:
    """Wait until processes are gone; those that stay are killed."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--mean-seconds", type=float, default=4.0, help="mean time between two of them")
    parser.add_argument("--stop-seconds", type=float, default=60.0, help="how long a process stands still")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=tuple(VICTIMS), help="who is harmed")
    options = parser.parse_args()
    chaos = Chaos(options.run_dir, options.seed, options.mean_seconds, options.stop_seconds, options.victims)
    summary = chaos.run(options.seconds)
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
