#!/usr/bin/env python3
"""Ask the `worldfleet train` driver on this machine to checkpoint and leave, and wait until it has.

KubeRay deletes pods without stopping the Ray job, so the head's preStop hook runs this. It signals the driver itself
rather than calling `ray job stop`: a stopped job counts as complete and is never retried, whereas a driver that was
interrupted exits with `cluster.stop_exit_code`. The RayJob makes that an error, which `backoffLimit` answers with a new
cluster that resumes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from pathlib import Path


def find_drivers(proc: Path) -> list[int]:
    """Process ids whose command line runs `worldfleet train`; the shells that launched them do not match."""
    pids = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        pairs = itertools.pairwise(words)
        if any(Path(program).name == "worldfleet" and command == "train" for program, command in pairs):
            pids.append(int(entry.name))
    return pids


def is_running(proc: Path, pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        status = (proc / str(pid) / "stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def stop(proc: Path, wait_s: float) -> bool:
    """Send SIGTERM to every driver and wait; whether all of them left in time."""
    pids = find_drivers(proc)
    for pid in pids:
        sys.stderr.write(f"stopping driver {pid}\n")
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + wait_s
    while any(is_running(proc, pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def main() -> None:
    """Command line: the seconds to wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="how long to wait (default 60)")
    options = parser.parse_args()
    sys.exit(0 if stop(Path("/proc"), options.wait) else 1)


if __name__ == "__main__":
    main()
