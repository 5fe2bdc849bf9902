"""A small run of the fuzzers."""

from __future__ import annotations

from tests.fuzz.fuzz import fuzz


def test_whatever_comes_is_taken_or_refused() -> None:
    result = fuzz(3_000, seed=1)
    assert not result.crashes, result.crashes[0]
    assert result.inputs > 2_900
    for name, count in result.counts.items():
        assert count.refused or count.accepted, name
    assert sum(count.refused for count in result.counts.values()) > 1_000
