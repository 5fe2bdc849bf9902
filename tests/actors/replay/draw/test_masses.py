"""The choice of shards and the times of probes."""

from __future__ import annotations

import numpy as np
import pytest

from actors.replay.draw.masses import MASS_REFRESH, ProbeSchedule, ShardMasses, ShardReport


def report(*masses: float, fractions: tuple[float, ...] = (1.0,)) -> ShardReport:
    return ShardReport(np.array(masses), np.array(fractions), masses[0], "node", [])


def test_draws_follow_the_masses() -> None:
    book, rng = ShardMasses(3), np.random.default_rng(0)
    for shard, mass in enumerate((10.0, 0.0, 30.0)):
        assert book.report(shard, report(mass))
    counts = np.bincount([book.draw(rng) for _ in range(8000)], minlength=3)
    assert counts[1] == 0
    assert counts[0] / 8000 == pytest.approx(0.25, abs=0.02)
    rows = np.zeros(3)
    for _ in range(500):
        parts = book.split(rng, 16)
        assert [low for _, low, _ in parts] == [0, *(high for _, _, high in parts[:-1])]
        assert parts[-1][2] == 16
        for shard, low, high in parts:
            rows[shard] += high - low
    assert rows[1] == 0
    assert rows[0] / 8000 == pytest.approx(0.25, abs=0.02)
    assert (book.totals.tolist(), book.num_items) == ([40.0], 40.0)


def test_a_mixture_weighs_its_components_by_their_fractions() -> None:
    book, rng = ShardMasses(2), np.random.default_rng(1)
    book.report(0, report(90.0, 0.5, fractions=(0.5, 0.5)))
    book.report(1, report(10.0, 1.5, fractions=(0.5, 0.5)))
    counts = np.bincount([book.draw(rng) for _ in range(8000)], minlength=2)
    assert counts[0] / 8000 == pytest.approx(0.5 * 0.9 + 0.5 * 0.25, abs=0.02)


def test_a_shard_that_left_is_not_drawn_until_it_reports() -> None:
    book, rng = ShardMasses(2), np.random.default_rng(2)
    book.report(0, report(5.0))
    book.report(1, report(5.0))
    assert book.leave(0)
    assert not book.leave(0)
    assert {book.draw(rng) for _ in range(100)} == {1}
    assert (book.totals.tolist(), book.num_items) == ([5.0], 5.0)
    assert book.describe() == "shard 0 does not answer, shard 1 has data"
    assert not book.drawable_without(1)
    assert book.report(0, report(5.0))
    assert not book.report(0, report(0.0))
    assert book.describe() == "shard 0 is empty, shard 1 has data"
    book.leave(1)
    assert not book.drawable
    with pytest.raises(ValueError, match="none of the 2 shards"):
        book.draw(rng)


def test_probes_of_absent_shards_come_with_growing_pauses() -> None:
    schedule = ProbeSchedule(2, first_pause=1.0, longest_pause=4.0)
    assert schedule.due(0.0) == [0, 1]
    schedule.answered(0, True, 0.0)
    times, now = [], 0.0
    schedule.failed(1, now)
    while len(times) < 5:
        now += schedule.wait(now)
        if schedule.due(now) == [1]:
            times.append(now)
            schedule.failed(1, now)
    assert times == [1.0, 3.0, 7.0, 11.0, 15.0]
    schedule.answered(1, True, now)
    assert schedule.due(now + 100) == []
    schedule.failed(1, now)
    assert schedule.wait(now) == 1.0  # the pause is short again


@pytest.mark.parametrize("num_shards", [1, 2, 3, 16, 40])
def test_present_shards_are_probed_in_turn_one_for_a_batch_at_most(num_shards: int) -> None:
    schedule = ProbeSchedule(num_shards)
    for shard in range(num_shards):
        schedule.answered(shard, True, 0.0)
    period, probed = max(MASS_REFRESH, num_shards), list[int]()
    for _ in range(3 * period):
        schedule.asked_batch()
        due = schedule.due(0.0)
        assert len(due) <= 1
        for shard in due:
            schedule.answered(shard, True, 0.0)
        probed += due
    assert probed == 3 * list(range(num_shards))
