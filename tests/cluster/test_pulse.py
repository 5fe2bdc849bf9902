"""What a process tells of itself, to a list in place of Ray's store."""

from __future__ import annotations

import threading

from ray.exceptions import RpcError

from cluster.pulse import Pulse


class Post:
    """Takes beats until the test has seen enough of them."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.stop = self.away = False
        self.beat = threading.Condition()

    def __call__(self, beats: int, steps: int) -> bool:
        with self.beat:
            self.told.append((beats, steps))
            self.beat.notify_all()
        if self.away:
            raise RpcError("no GCS")
        return self.stop

    def wait(self, more: int = 3) -> tuple[int, int]:
        """The newest of `more` further beats."""
        with self.beat:
            enough = len(self.told) + more
            assert self.beat.wait_for(lambda: len(self.told) >= enough, 60.0)
            return self.told[-1]


def test_beats_go_on_without_work_and_steps_count_it() -> None:
    post = Post()
    pulse = Pulse(post, seconds=0.001)
    assert post.wait()[1] == 0
    assert not pulse.tick()
    assert not pulse.tick()
    beats, steps = post.wait()
    assert steps == 2
    assert post.wait()[0] > beats


def test_a_place_that_changes_is_a_step() -> None:
    post, place = Post(), [0]
    pulse = Pulse(post, seconds=0.001)
    pulse.follow(lambda: place[0])
    _, before = post.wait()
    assert post.wait()[1] == before
    place[0] = 1
    assert post.wait()[1] == before + 1


def test_a_stop_is_told_by_the_next_tick_and_a_store_that_is_away_ends_nothing() -> None:
    post = Post()
    pulse = Pulse(post, seconds=0.001)
    post.away = True
    post.wait()
    post.away, post.stop = False, True
    post.wait()
    assert pulse.tick()
