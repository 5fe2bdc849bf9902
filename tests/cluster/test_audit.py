"""Steps are counted by spans: a hole costs what it holds, not all that follows."""

from __future__ import annotations

from cluster.audit import _by_stream, lost_steps


def test_spans_of_blocks_join_and_holes_stay() -> None:
    blocks = [(7, 64, 128), (7, 0, 64), (7, 192, 256), (9, 0, 64), (7, 0, 64)]
    assert _by_stream(blocks) == {7: [(0, 128), (192, 256)], 9: [(0, 64)]}


def test_a_hole_of_one_block_loses_one_block() -> None:
    acknowledged = {0: [(0, 4096)], 1: [(0, 64), (128, 192)]}
    assert lost_steps(acknowledged, {0: [(0, 128), (192, 4096)], 1: [(0, 192)]}, 0) == 64


def test_evictions_excuse_the_front_of_a_stream_alone() -> None:
    acknowledged = {0: [(0, 4096)], 1: [(0, 512)]}
    stored = {0: [(1024, 2048), (2112, 4032)]}  # stream 1 is evicted as a whole
    assert lost_steps(acknowledged, stored, 1024 + 512) == 64 + 64
    assert lost_steps(acknowledged, stored, 9999) == 64 + 64
    assert lost_steps(acknowledged, stored, 1000) == 64 + 64 + 536
