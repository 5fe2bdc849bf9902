"""The environment benchmark measures every case and pairs it with a peer."""

from __future__ import annotations

from cluster.bench.env import run
from envs.options import has_extra


def test_every_case_has_a_rate_a_peer_and_their_ratio() -> None:
    rows = list(run(seconds=0.02))
    simulators = sum(has_extra(extra) for extra in ("car-racing", "envpool", "dmc"))
    assert len({row.case for row in rows}) == len(rows) == 7 + simulators + 2 * has_extra("carla")
    for row in rows:
        assert row.bench == "env"
        assert row.value > 0
        assert row.peer_value is not None
        assert row.ratio == row.value / row.peer_value
