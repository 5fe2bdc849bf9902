"""The record every benchmark yields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchRow:
    """One measurement; `ratio` is ours over the peer's in the sense 'higher is better'."""

    bench: str
    case: str
    value: float
    unit: str
    threads: int = 1
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
