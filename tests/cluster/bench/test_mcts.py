"""The tree search benchmark's rows on tiny cases; no times are asserted."""

from __future__ import annotations

import sys

import pytest

from cluster.bench import mcts as bench
from cluster.bench.mcts_peers import Case, Pool, ours


def test_every_case_stands_beside_every_peer_and_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lzero", None)
    monkeypatch.setitem(sys.modules, "mctx", None)
    rows = list(bench.run(actions=[3], roots=[1, 17], simulations=6, rounds=2, seconds=0.0))
    speeds = [row for row in rows if row.unit == "k simulations/s"]
    assert {row.case for row in speeds} == {f"{kind}, A 3, B {size}" for kind in ("puct", "gumbel") for size in (1, 17)}
    skipped = {"lightzero (skipped: not installed)", "mctx (skipped: not installed)"}
    assert {row.peer for row in speeds} == skipped | {"memory", "one thread"}
    assert {row.case for row in speeds if row.threads == 2} == {"puct, A 3, B 17", "gumbel, A 3, B 17"}
    for row in speeds:
        assert row.value > 0
        if row.peer in skipped:
            assert row.peer_value is None
        else:
            assert row.peer_value is not None
            assert row.ratio == pytest.approx(row.value / row.peer_value)


@pytest.mark.parametrize("images", [False, True])
def test_a_plan_is_the_sum_of_its_parts(images: bool) -> None:
    rows = list(bench.parts_of_a_plan(images, roots=3, simulations=4, rounds=1))
    assert [row.case.rsplit(": ", 1)[1] for row in rows] == ["tree", "network", "copies"]
    assert sum(row.value for row in rows) == pytest.approx(rows[0].peer_value)
    assert sum(row.ratio for row in rows if row.ratio is not None) == pytest.approx(1.0)


def test_what_is_timed_is_a_whole_search() -> None:
    case = Case("gumbel", 3, roots=2, simulations=5)
    run, search = ours(case, Pool.random(case, seed=1))
    weights, best = run()
    assert search.simulation == 5
    assert search.root()[0].sum(axis=1).tolist() == [5, 5]
    assert weights.shape == (2, 3)
    assert best.shape == (2,)


def test_refuses_no_rounds() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        next(bench.run(rounds=0))
