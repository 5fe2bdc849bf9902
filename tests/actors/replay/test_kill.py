"""A shard's process is killed while it inserts; its ledger says what was acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.actors.replay.crashes import balanced, durable_config, opened, stored, tag_block

ROOT = Path(__file__).parents[3]


def child(folder: Path, ledger: Path, mode: str, chunks: int) -> None:
    """Insert into four streams for ever; a line of the ledger per acknowledged block. Runs in its own process."""
    config = durable_config(mode, chunks, segment_bytes=1 << 14, max_delay_seconds=0.2)
    with opened(config, folder) as shard, ledger.open("a") as file:
        reached = {stream: shard.next_steps().get(stream, 0) for stream in range(4)}
        rng, count = np.random.default_rng(), 0
        while True:
            stream, steps = int(rng.integers(4)), int(rng.integers(1, 40))
            shard.insert(tag_block(stream, reached[stream], steps))
            reached[stream] += steps
            file.write(f"{stream} {reached[stream]} {time.time()}\n")
            file.flush()
            shard.sample(4, 1)
            count += 1
            if count % 50 == 0:
                shard.checkpoint(f"at-{count}")
            if count % 175 == 0:
                shard.retain([f"at-{count - 25}"])


def run_and_kill(folder: Path, ledger: Path, mode: str, chunks: int, seconds: float) -> float:
    """Start a child, let it insert for some time, kill it; the time of the kill."""
    code = (
        "from pathlib import Path; from tests.actors.replay.test_kill import child; "
        f"child(Path({str(folder)!r}), Path({str(ledger)!r}), {mode!r}, {chunks})"
    )
    size = ledger.stat().st_size if ledger.exists() else 0
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stderr=subprocess.PIPE)
    try:
        while not ledger.exists() or ledger.stat().st_size == size:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.01)
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGKILL)
        killed = time.time()
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    return killed


def acknowledged(ledger: Path, before: float) -> dict[int, int]:
    """Stream -> end of its last block acknowledged before a time."""
    ends: dict[int, int] = {}
    for line in ledger.read_text().splitlines():
        fields = line.split()
        if len(fields) == 3 and float(fields[2]) < before:
            ends[int(fields[0])] = int(fields[1])
    return ends


@pytest.mark.chaos
@pytest.mark.parametrize("chunks", [12, 4000])
def test_nothing_acknowledged_is_lost_or_doubled_under_sync(tmp_path: Path, chunks: int) -> None:
    """With few chunks the log is thinned out all the time; with many, everything is stored."""
    rng = np.random.default_rng(chunks)
    folder, ledger = tmp_path / "shard", tmp_path / "ledger"
    for _ in range(3):
        killed = run_and_kill(folder, ledger, "sync", chunks, rng.uniform(0.05, 0.6))
        with opened(durable_config("sync", chunks, segment_bytes=1 << 14), folder) as shard:
            ends = acknowledged(ledger, killed)
            reached = shard.next_steps()
            assert all(reached[stream] >= end for stream, end in ends.items())
            assert shard.recovery.lost_steps == 0
            assert shard.recovery.damage == ()
            for stream, steps in stored(shard).items():
                assert steps == list(range(steps[0], reached[stream]))
                assert chunks == 12 or steps[0] == 0
            assert balanced(shard)


@pytest.mark.chaos
def test_async_loses_no_more_than_its_window(tmp_path: Path) -> None:
    folder, ledger = tmp_path / "shard", tmp_path / "ledger"
    killed = run_and_kill(folder, ledger, "async", 4000, 1.5)
    with opened(durable_config("async", 4000, segment_bytes=1 << 14), folder) as shard:
        promised = acknowledged(ledger, killed - 0.7)  # the window is 0.2 s; a busy machine gets some slack
        assert promised
        reached = shard.next_steps()
        assert all(reached[stream] >= end for stream, end in promised.items())
        for stream, steps in stored(shard).items():
            assert steps == list(range(steps[0], reached[stream]))  # on a fast disk the oldest are evicted
        last = acknowledged(ledger, killed)
        for stream in range(4):  # streams go on where their senders are
            assert shard.insert(tag_block(stream, max(last[stream], reached[stream]), 10)) == 10
        assert balanced(shard)
