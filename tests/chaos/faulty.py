"""A training run whose simulators fail: one step in a thousand raises, returns NaN, ends its process or hangs.

    python -m tests.chaos.faulty --steps 100000 --run-dir runs/faulty

The run collects through Ray from environments that count their steps and keep a ledger of their failures. At the end
it must have reached its target, its replay must hold every acknowledged step once and with the right content, and the
run must have counted every failure of the ledger, no more and no less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.audit import audit_run
from envs.testing.counter import COUNTER_NAME
from tests.chaos.monkey import ROOT, check_contents

SETTINGS = (
    "env.mode=subprocess",
    "env.step_timeout_seconds=5",
    "env.fault_budget=1000000",
    "replay.durability.mode=sync",
    "replay.num_shards=2",
    "replay.chunk_steps=256",
    "replay.max_bytes=2000000000",
    "cluster.ledger=true",
    "schedule.fit_updates=1",
    "schedule.eval_every=0",
    "schedule.log_every=500",
)


def run_with_faults(run_dir: Path, steps: int, share: float, seconds: float) -> dict[str, Any]:
    """Collect `steps` steps of which a `share` fails, and compare what was stored and counted; the summary.

    Raises:
        AssertionError: Something was lost, doubled, wrong or not counted.
    """
    log, faults = run_dir.with_suffix(".log"), run_dir.with_suffix(".faults")
    options = {"fault_share": share, "fault_log": str(faults)}
    sets = [*SETTINGS, f"schedule.total_steps={steps}", f"env.options={json.dumps(options)}"]
    words = [word for setting in sets for word in ("--set", setting)]
    command = [sys.executable, "-m", "worldfleet", "train", "--env", COUNTER_NAME, "--scale", "debug"]
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    started = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--run-dir", str(run_dir), *words], stdout=out, stderr=out, env=environment, cwd=ROOT
        )
        try:
            code = process.wait(seconds)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
    assert code == 0, log.read_text()[-4000:]
    assert json.loads((run_dir / "DONE.json").read_text())["step"] >= steps
    injected = Counter(tuple(line.split()[:2]) for line in faults.read_text().splitlines())
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    told = Counter((event["kind"], str(event["seed"])) for event in events if event["event"] == "fault")
    assert told == injected, f"told and not injected: {told - injected}; injected and not told: {injected - told}"
    metrics = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["env/faults"] == injected.total()
    summary = audit_run(run_dir)
    assert (summary["lost"], summary["doubled"]) == (0, 0), summary
    checked, _ = check_contents(run_dir)
    assert checked == summary["stored"]
    kinds = Counter(kind for kind, _ in injected.elements())
    seconds = round(time.monotonic() - started)
    return {**summary, "checked": checked, "faults": injected.total(), "kinds": dict(kinds), "seconds": seconds}


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.001, help="of the steps that fail")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=7200.0, help="time limit")
    options = parser.parse_args()
    summary = run_with_faults(options.run_dir, options.steps, options.share, options.seconds)
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
