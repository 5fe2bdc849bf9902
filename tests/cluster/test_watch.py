"""Who is overdue, by a clock of the test's own."""

from __future__ import annotations

import math

import pytest

from cluster.watch import Limits, Watch

SHARD, PLANNER, ROLLOUT, LEARNER, OTHER = ("replay", 0), ("planner", 0), ("rollout", 0), ("learner", 0), ("learner", 1)
LIMITS = Limits(silent=60.0, stuck=100.0, starting=300.0)


class Fleet:
    """A watch over a shard that is pinged and over actors that beat each second, unless the test stops them."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.now = 0.0
        self.watch = Watch(lambda: self.now)
        self.watch.begin(SHARD, limits, serves=True)
        self.beating, self.working = {ROLLOUT, LEARNER, OTHER}, {ROLLOUT, LEARNER, OTHER}
        for key in self.beating:
            self.watch.begin(key, limits, serves=False)
        self.shard_answers = True

    def pass_seconds(self, seconds: float) -> list[str]:
        """Let time pass until something is overdue: what that is, and when."""
        for _ in range(int(seconds)):
            self.now += 1
            if self.shard_answers:
                self.watch.answered(SHARD)
            self.watch.asked(SHARD)
            for key in self.beating:
                steps = int(self.now) if key in self.working else 10**6
                self.watch.pulse(key, int(self.now), steps)
            if found := self.watch.overdue({ROLLOUT, LEARNER, OTHER}):
                return [f"{one.key[0]}-{one.key[1]} {one}" for one in found]
        return []


def test_nobody_is_overdue_who_answers_and_works() -> None:
    assert Fleet().pass_seconds(1000) == []


def test_a_process_that_is_not_heard_is_told_apart_from_work_that_does_not_go_on() -> None:
    fleet = Fleet()
    fleet.pass_seconds(10)
    fleet.beating.remove(LEARNER)
    assert fleet.pass_seconds(1000) == ["learner-0 has not answered for 61 s"]
    fleet = Fleet()
    fleet.pass_seconds(10)
    fleet.working.remove(ROLLOUT)
    fleet.pass_seconds(1)
    (told,) = fleet.pass_seconds(1000)
    assert told == "rollout-0 has not answered for 101 s (its process lives, its work does not go on)"


def test_a_rank_that_waits_for_another_is_not_blamed() -> None:
    fleet = Fleet(Limits(silent=60.0, stuck=60.0, starting=300.0))
    fleet.pass_seconds(10)
    fleet.working -= {LEARNER, OTHER}  # both are in the same exchange
    fleet.beating.remove(OTHER)
    assert fleet.pass_seconds(1000) == ["learner-1 has not answered for 61 s"]


def test_whoever_serves_is_found_before_those_who_wait_for_it() -> None:
    fleet = Fleet(Limits(silent=60.0, stuck=20.0, starting=300.0))
    fleet.pass_seconds(10)
    fleet.shard_answers = False
    fleet.working.clear()
    assert fleet.pass_seconds(1000) == ["replay-0 has not answered for 61 s"]
    fleet.watch.begin(SHARD, LIMITS, serves=True)  # it starts again, and the others still wait
    assert fleet.pass_seconds(200) == []
    fleet.shard_answers = True
    assert all(told.startswith(("rollout-0", "learner-")) for told in fleet.pass_seconds(30))


def test_work_is_limited_only_while_there_is_any() -> None:
    fleet = Fleet()
    fleet.pass_seconds(10)
    fleet.working.remove(LEARNER)
    for _ in range(500):
        fleet.now += 1
        for key in fleet.beating:
            fleet.watch.pulse(key, int(fleet.now), int(fleet.now) if key in fleet.working else 0)
        fleet.watch.answered(SHARD)
        assert not fleet.watch.overdue({ROLLOUT, OTHER})


def test_starting_has_a_limit_of_its_own() -> None:
    now = [0.0]
    watch = Watch(lambda: now[0])
    watch.begin(ROLLOUT, LIMITS, serves=False)
    watch.begin(PLANNER, LIMITS, serves=True)
    for second in range(1, 1000):
        now[0] = second
        watch.asked(PLANNER)
        if found := watch.overdue({ROLLOUT}):
            break
    assert [one.key for one in found] == [PLANNER]
    assert found[0].seconds == 301


def test_a_pause_of_the_watch_itself_is_nobodys_silence() -> None:
    fleet = Fleet()
    fleet.pass_seconds(10)
    fleet.now += 500.0  # this process stood still
    assert fleet.pass_seconds(10) == []
    fleet.beating.remove(ROLLOUT)
    assert fleet.pass_seconds(100) == ["rollout-0 has not answered for 61 s"]


@pytest.mark.parametrize("what", ["beating", "working"])
def test_limits_can_be_switched_off(what: str) -> None:
    fleet = Fleet(Limits(math.inf))
    fleet.pass_seconds(10)
    getattr(fleet, what).clear()
    fleet.shard_answers = False
    assert fleet.pass_seconds(10_000) == []
