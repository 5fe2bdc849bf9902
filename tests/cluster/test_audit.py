"""Steps are counted by spans: a hole costs what it holds, not all that follows."""

from __future__ import annotations

from cluster.audit import _by_stream, _length, _overlap


def test_spans_of_blocks_join_and_holes_stay() -> None:
    blocks = [(7, 64, 128), (7, 0, 64), (7, 192, 256), (9, 0, 64), (7, 0, 64)]
    assert _by_stream(blocks) == {7: [(0, 128), (192, 256)], 9: [(0, 64)]}


def test_a_hole_of_one_block_loses_one_block() -> None:
    acknowledged = [(0, 4096)]
    stored = [(0, 128), (192, 4096)]
    assert _length(acknowledged) - _overlap(acknowledged, stored) == 64
    assert _overlap(stored, [(100, 200), (4000, 5000)]) == 28 + 8 + 96
