"""Measures the memory of every process of a run on Ray, once a minute; the figures of docs/results/memory.md.

    python -m tests.bench.memory --minutes 60 --run-dir runs/memory [--set KEY=VALUE ...]

A line of JSON per minute goes to stdout: process -> MB of anonymous memory (what a process alone holds; shared memory
and files that it maps are not in it), with the calls' counts of the run's metrics. At the end follows a table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.monkey import descendants, process_table

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("schedule.total_steps=1000000000", "replay.max_bytes=30000000", "schedule.checkpoint_seconds=120")
"""A run that goes on, whose replay is full after some minutes."""

KNOWN = {
    r"gcs_server": "gcs_server",
    r"raylet/raylet": "raylet",
    r"dashboard/dashboard\.py": "dashboard",
    r"dashboard/agent\.py|DashboardAgent": "dashboard agent",
    r"runtime_env/agent": "runtime env agent",
    r"log_monitor": "log monitor",
    r"monitor\.py": "autoscaler monitor",
    r"worldfleet train": "driver",
}


def name_of(command: str) -> str:
    """What a process is, for people; empty for one that does not count."""
    if command.startswith("ray::"):
        name = re.split(r"[ .(]", command.removeprefix("ray::"))[0]
        return "" if name == "IDLE" else name
    if "ray-dashboard-" in command:
        return command.split()[0]
    return next((name for pattern, name in KNOWN.items() if re.search(pattern, command)), "")


def anonymous_mb(pid: int) -> float | None:
    """Megabytes that a process alone holds, None if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return None if found is None else int(found[1]) * 1024 / 1e6


def snapshot(driver: int) -> dict[str, float]:
    """MB of every process of a run, by name; processes of one name are numbered."""
    ours, seen, sizes = {driver, *descendants(driver)}, Counter[str](), {}
    for pid, _, command in sorted(process_table()):
        name, size = name_of(command), anonymous_mb(pid)
        if pid in ours and name and size is not None:
            sizes[f"{name} {seen[name]}"] = round(size, 1)
            seen[name] += 1
    return sizes


def table(rows: list[dict[str, float]]) -> str:
    """Memory of each process at some minutes, and its growth over the second half, as Markdown."""
    names = sorted({name for row in rows for name in row})
    shown = sorted({round(share * (len(rows) - 1)) for share in (0, 0.125, 0.25, 0.5, 0.75, 1)})
    lines = ["| process | " + " | ".join(f"{minute} min" for minute in shown) + " | MB/min, 2nd half |"]
    lines.append("|" + "---|" * (len(shown) + 2))
    half = len(rows) // 2
    for name in names:
        values = [f"{rows[minute][name]:.1f}" if name in rows[minute] else "" for minute in shown]
        late = [row[name] for row in rows[half:] if name in row]
        growth = f"{(late[-1] - late[0]) / max(1, len(late) - 1):+.3f}" if late else ""
        lines.append(f"| {name} | " + " | ".join(values) + f" | {growth} |")
    return "\n".join(lines)


def measure(minutes: int, run_dir: Path, overrides: list[str], out: Path) -> str:
    """Start a run, note its memory every minute, stop it; the table."""
    sets = [word for setting in (*SETTINGS, *overrides) for word in ("--set", setting)]
    command = [sys.executable, "-m", "worldfleet", "train", "--scale", "debug", "--run-dir", str(run_dir), *sets]
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    rows: list[dict[str, float]] = []
    with run_dir.with_suffix(".log").open("w") as log, out.open("w") as file:
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
        try:
            while not (run_dir / "metrics.jsonl").exists() or not (run_dir / "metrics.jsonl").read_text():
                assert driver.poll() is None, f"the run ended: {log.name}"
                time.sleep(1.0)
            start = time.monotonic()
            for minute in range(minutes + 1):
                time.sleep(max(0.0, start + 60.0 * minute - time.monotonic()))
                assert driver.poll() is None, f"the run ended: {log.name}"
                rows.append(snapshot(driver.pid))
                last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
                counts = {"minute": minute, "step": last["step"], "updates": last["learner/updates"]}
                file.write(json.dumps(counts | rows[-1]) + "\n")
                file.flush()
        finally:
            driver.send_signal(signal.SIGTERM)
            driver.wait(120)
    return table(rows)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("memory.jsonl"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    options.run_dir.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(measure(options.minutes, options.run_dir, options.set, options.out) + "\n")


if __name__ == "__main__":
    main()
