"""The replay benchmark on tiny sizes; no times are asserted."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from actors.replay.draw.kinds import UniformConfig
from cluster.bench import replay as bench
from cluster.bench.replay_bounds import Ring
from cluster.bench.replay_checkpoint import checkpoints
from cluster.bench.replay_data import QUICK, StepSource, Workload, alternate, filled_shard
from cluster.bench.row import BenchRow


def check(rows: list[BenchRow]) -> None:
    """Every row has a value, and a ratio exactly if its peer ran."""
    assert rows
    for row in rows:
        assert row.bench == "replay"
        assert row.value > 0
        assert row.peer
        if "(skipped: " in row.peer:
            assert row.peer_value is None
            assert row.ratio is None
        else:
            assert row.peer_value is not None
            assert row.ratio is not None
            assert math.isfinite(row.ratio)
            assert row.ratio > 0


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the optional peers."""
    for name in ("torchrl", "torchrl.data", "tensordict", "cpprb"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_peers")
def test_in_process_rows_name_bounds_peers_and_what_is_missing() -> None:
    rows = list(bench.run("process,tree", quick=True, rounds=1))
    check(rows)
    peers = {row.case: {other.peer for other in rows if other.case == row.case} for row in rows}
    assert peers["insert blocks of 128, when full"] == {"memcpy into a ring"}
    assert peers["uniform sample, reused arrays"] == {"memcpy, reused buffer"}
    assert peers["prioritized sample + update, fresh arrays"] == {"memcpy, fresh buffer"}
    assert {peer.split(" ", 1)[0] for peer in peers["uniform sample"]} == {"TorchRL", "cpprb", "RLlib", "Reverb"}
    assert "TorchRL (skipped: not installed)" in peers["uniform sample"]
    assert any(peer.startswith("RLlib 2.") for peer in peers["uniform sample"])
    assert any(peer.startswith("Reverb (skipped: it needs TensorFlow") for peer in peers["uniform sample"])
    assert "RLlib (skipped: its prioritized replay has no sequences)" in peers["prioritized sample + update"]
    assert peers["sum tree, 4096 leaves: sample + update of 256"] == {
        "TorchRL (skipped: not installed)", "cpprb (skipped: not installed)",
    }  # fmt: skip


def test_checkpoint_rows() -> None:
    rows = list(checkpoints(QUICK, turns=1))
    check(rows)
    assert [row.unit for row in rows] == ["GB/s", "GB/s", "batches/s", "GB/s"] * 4 + ["steps/s"] * 2
    assert {row.peer for row in rows} == {
        "np.save + fsync", "no checkpoint", "np.load", "durability none",
    }  # fmt: skip


@pytest.mark.integration
@pytest.mark.usefixtures("no_peers")
def test_service_rows() -> None:
    rows = list(bench.run("service", quick=True, rounds=1))
    check(rows)
    cases = {row.case for row in rows}
    assert {f"service, {transport}, uniform sample" for transport in ("slots", "objects")} <= cases
    for way in ("shared memory", "objects"):
        assert f"service, insert blocks of 128, 1 sender, {way}" in cases
    assert "service, slots, uniform sample while inserting" in cases
    assert any(row.peer == "TorchRL on Ray (skipped: not installed)" for row in rows)


def test_ours_and_the_bound_hold_the_same_steps() -> None:
    source = StepSource(QUICK)
    ring, shard = Ring(source.restarted()), filled_shard(source.restarted(), UniformConfig())
    assert shard.num_steps == QUICK.stored_steps == len(ring.data["reward"])
    batch = shard.read(1, 128, 128)
    block = next(b for b in source.restarted().blocks() if (b.stream_id, b.first_step) == (1, 128))
    assert all(np.array_equal(batch.data[key][0], array) for key, array in block.data.items())
    assert any(np.array_equal(ring.data["image"][low : low + 128], block.data["image"]) for low in range(0, 4096, 128))


def test_rivals_take_turns() -> None:
    calls: list[str] = []
    rates = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, repeats=2)
    assert calls == list("aabb") + list("bbaa") + list("aabb")  # a round to warm up, then forwards and backwards
    assert [len(values) for values in rates.values()] == [2, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parts": "process,disk"}, "there is no disk"),
        ({"peers": "Redis"}, "peers are TorchRL, cpprb, RLlib, Reverb; there is no Redis"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        next(bench.run(**options))  # type: ignore[arg-type]


def test_a_workload_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="episode_steps 100 must be a multiple of block_steps 64"):
        Workload(episode_steps=100, block_steps=64)
