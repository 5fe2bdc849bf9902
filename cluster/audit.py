"""`worldfleet audit`: whether the replay of a run still holds every step that it acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.ledger import read_ledgers
from cluster import build
from cluster.run_dir import RunDir

Spans = Sequence[tuple[int, int]]
"""Disjoint spans of steps of a stream, in order: (first step, end)."""


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
        next_steps, stats = replay.next_steps(), replay.stats()
        spans = [span for shard in replay.shards for span in shard.spans()]
        replay.close()
    finally:
        run_dir.close()
    acknowledged, stored = _by_stream(_ledger_spans(run_dir)), _by_stream(spans)
    evicted = int(stats["evicted_steps"])
    common = {stream: _overlap(theirs, stored.get(stream, [])) for stream, theirs in acknowledged.items()}
    num_stored = sum(map(_length, stored.values()))
    num_acknowledged = sum(map(_length, acknowledged.values()))
    total = sum(next_steps.values())
    return {
        "acknowledged": num_acknowledged,
        "inserted": int(stats["inserted_steps"]),
        "stored": num_stored,
        "evicted": evicted,
        "lost": lost_steps(acknowledged, stored, evicted),
        "doubled": max(0, int(stats["inserted_steps"]) - total),
        "unacknowledged": num_stored - sum(common.values()),
        "run_dir": str(path),
    }


def lost_steps(acknowledged: Mapping[int, Spans], stored: Mapping[int, Spans], evicted: int) -> int:
    """Acknowledged steps that are neither stored nor evicted.

    A shard evicts a stream from its front, so evictions excuse nothing after the first stored step of a stream.
    """
    front = later = 0
    for stream, spans in acknowledged.items():
        kept = stored.get(stream, [])
        first = kept[0][0] if kept else max(end for _, end in spans)
        front += _overlap(spans, [(0, first)])
        after = [(max(start, first), end) for start, end in spans if end > first]
        later += _length(after) - _overlap(after, kept)
    return later + max(0, front - evicted)


def _ledger_spans(run_dir: RunDir) -> list[tuple[int, int, int]]:
    """(stream, first step, end) of every acknowledged block."""
    return [(stream, first, first + steps) for stream, first, steps in read_ledgers(run_dir.ledgers)]


def _by_stream(spans: Iterable[tuple[int, int, int]]) -> dict[int, list[tuple[int, int]]]:
    """Disjoint spans in order, by stream."""
    found: dict[int, list[tuple[int, int]]] = {}
    for stream, start, end in sorted(spans):
        known = found.setdefault(stream, [])
        if known and start <= known[-1][1]:
            known[-1] = known[-1][0], max(end, known[-1][1])
        else:
            known.append((start, end))
    return found


def _length(spans: Spans) -> int:
    return sum(end - start for start, end in spans)


def _overlap(ours: Spans, theirs: Spans) -> int:
    """Steps in both."""
    return sum(max(0, min(end, end2) - max(start, start2)) for start, end in ours for start2, end2 in theirs)
