"""The window of messages to one shard: bounds, and order under failures."""

from __future__ import annotations

from collections import deque

import pytest

from actors.replay.flow.batches import ShardUnavailable
from actors.replay.flow.credits import Message, MessageWindow


def message(number: int, num_bytes: int = 10) -> Message:
    return Message(str(number).encode(), None, num_bytes, 64)


class FakeShard:
    """Answers calls in order; every call may be told to be lost, or its answer, by a restart.

    It accepts gaps, like a shard that has lost acknowledged steps in its restart, so order is all up to the sender.
    """

    def __init__(self, loses_call: set[int] = frozenset(), loses_answer: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.calls = 0
        self.stored: list[int] = []
        self.duplicates = 0
        self.refuses_from: int | None = None
        self.most_open = self.most_bytes = 0
        self._loses_call, self._loses_answer = loses_call, loses_answer
        self._open: deque[tuple[int, Message]] = deque()
        self._sessions: dict[int, int] = {}  # call -> connection
        self._answers: dict[int, int | Exception] = {}
        self._session = self._known = 0
        self._absent = 0  # failures to connect that are still to come

    def connect(self) -> None:
        if self._absent:
            self._absent -= 1
            raise ShardUnavailable("restarting")
        self._known = self._session

    def insert(self, message: Message) -> int:
        self.calls += 1
        self._open.append((self.calls, message))
        self._sessions[self.calls] = self._known
        self.most_open = max(self.most_open, len(self._open))
        self.most_bytes = max(self.most_bytes, sum(m.num_bytes for _, m in self._open))
        return self.calls

    def done(self, call: int) -> bool:
        return call in self._answers

    def serve(self) -> None:
        self._serve(*self._open.popleft())

    def result(self, call: int) -> int:
        while call not in self._answers:
            self.serve()
        answer = self._answers.pop(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _serve(self, call: int, message: Message) -> None:
        number = int(message.header)
        if self._sessions[call] != self._session:
            self._answers[call] = ShardUnavailable("restarted")
            return
        if call in self._loses_call:
            self._restart(call)
            return
        if number in self.stored:
            self.duplicates += 1
        elif self.refuses_from is not None and number >= self.refuses_from:
            self._answers[call] = ValueError(f"message {number} is refused")
            return
        else:
            self.stored.append(number)
        self._answers[call] = 64
        if call in self._loses_answer:
            self._restart(call)

    def _restart(self, call: int) -> None:
        self._answers[call] = ShardUnavailable("gone")
        self._session += 1
        self._absent = 3


def window(shard: FakeShard, max_messages: int = 4, max_bytes: int = 100) -> MessageWindow:
    return MessageWindow(shard, max_messages, max_bytes, retry_seconds=0.0, sleep=lambda _: None)


def test_messages_and_bytes_on_their_way_are_bounded() -> None:
    shard = FakeShard()
    sender = window(shard, max_messages=4, max_bytes=35)
    acknowledged = sum(sender.send(message(number)) for number in range(20))
    assert (shard.most_open, shard.most_bytes) == (3, 30)
    assert (sender.pending_bytes, sender.pending_steps) == (30, 3 * 64)
    assert acknowledged + sender.settle(wait=True) == 20 * 64
    assert (sender.pending_bytes, sender.pending_steps) == (0, 0)
    assert shard.stored == list(range(20))


def test_the_number_of_messages_bounds_small_ones() -> None:
    shard = FakeShard()
    sender = window(shard, max_messages=2)
    for number in range(6):
        sender.send(message(number, 1))
    assert shard.most_open == 2


def test_one_message_larger_than_the_share_may_go() -> None:
    shard = FakeShard()
    sender = window(shard, max_bytes=5)
    for number in range(3):
        sender.send(message(number, 1000))
    assert shard.most_open == 1
    sender.settle(wait=True)
    assert shard.stored == [0, 1, 2]


@pytest.mark.parametrize("lost", [{2}, {2, 3, 4}, {1, 2, 3, 4, 5, 6, 7}, {3, 5, 9, 10, 11}, set(range(1, 40, 2))])
@pytest.mark.parametrize("answers", [False, True])
def test_everything_arrives_once_and_in_order_whatever_is_lost(lost: set[int], answers: bool) -> None:
    shard = FakeShard(loses_answer=lost) if answers else FakeShard(loses_call=lost)
    sender = window(shard)
    acknowledged = sum(sender.send(message(number)) for number in range(25))
    acknowledged += sender.settle(wait=True)
    assert acknowledged == 25 * 64
    assert shard.stored == list(range(25))
    assert sender.resent > 0
    assert (shard.duplicates > 0) == answers


def test_what_the_shard_refuses_is_raised() -> None:
    shard = FakeShard()
    shard.refuses_from = 3
    sender = window(shard)
    sender.send(message(3))
    with pytest.raises(ValueError, match="message 3 is refused"):
        sender.settle(wait=True)


def test_settle_takes_only_what_is_there() -> None:
    shard = FakeShard()
    sender = window(shard)
    sender.send(message(0))
    assert sender.settle() == 0
    shard.serve()
    assert sender.settle() == 64


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 messages of 5 bytes"):
        window(FakeShard(), 0, 5)
