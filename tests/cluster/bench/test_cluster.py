from functools import partial

import pytest

from cluster.bench.cluster import run
from envs.testing.counter import CounterVectorEnv


@pytest.mark.integration
def test_both_cases_compare_with_the_bare_loop() -> None:
    rows = list(run(partial(CounterVectorEnv, 4), rounds=1, ticks=1024))
    assert [row.threads for row in rows] == [1, 2]
    for row in rows:
        assert row.bench == "cluster"
        assert row.peer == "bare env loop"
        assert row.peer_value is not None
        assert row.value > 0
    assert rows[1].ratio == pytest.approx(rows[1].value / rows[1].peer_value)  # one round: the median is that round


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 1024, got 1 and 100"):
        next(run(partial(CounterVectorEnv, 4), rounds=1, ticks=100))
