"""`worldfleet audit`: whether the replay of a run still holds every step that it acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.ledger import read_ledgers
from cluster import build
from cluster.run_dir import RunDir


def audit_run(path: Path) -> dict[str, Any]:
    """Compare the acknowledgements of a run with what its replay holds.

    The run must have been started with `cluster.ledger=true`, and must not be going on.

    Args:
        path: Run directory.

    Returns:
        Steps: `acknowledged` by the ledgers, `inserted` by the shards' counters, `stored` now, `evicted` since; `lost`
        (acknowledged, and neither stored nor evicted), `doubled` (counted more often than there are such steps) and
        `unacknowledged` (stored, but the sender did not live to know).

    Raises:
        ValueError: No run there, or one without ledgers.
    """
    run_dir, config = RunDir.open(path)
    if not run_dir.ledgers.is_dir():
        raise ValueError(f"{path} has no ledgers: train with --set cluster.ledger=true")
    run_dir.acquire()
    try:
        replay = build.replay(config, run_dir.replay, None, tail=True)
        next_steps, spans, stats = replay.next_steps(), replay.streams(), replay.stats()
        replay.close()
    finally:
        run_dir.close()
    acknowledged = dict.fromkeys(next_steps, 0)
    lost = 0
    for stream_id, first_step, steps in read_ledgers(run_dir.ledgers):
        end = first_step + steps
        acknowledged[stream_id] = max(acknowledged.get(stream_id, 0), end)
        lost += max(0, end - max(first_step, next_steps.get(stream_id, 0)))
    stored = sum(end - start for start, end in spans.values())
    total = sum(next_steps.values())
    return {
        "acknowledged": sum(acknowledged.values()),
        "inserted": int(stats["inserted_steps"]),
        "stored": stored,
        "evicted": int(stats["evicted_steps"]),
        "lost": lost + max(0, total - stored - int(stats["evicted_steps"])),
        "doubled": max(0, int(stats["inserted_steps"]) - total),
        "unacknowledged": total - sum(min(acknowledged[stream], end) for stream, end in next_steps.items()),
        "run_dir": str(path),
    }
