"""The sending side of inserts: what may be on its way to one shard, and sending it again in order.

A message is kept until its shard has acknowledged it. When the oldest one fails because the shard is away, the
sender connects again as soon as the shard is back and repeats everything in order; the shard drops what it knows
already. (Ray's own retries arrive in any order.) Every message names the connection it was sent on, and a restarted
shard refuses those of older ones: or a late message could arrive before the repeated one that precedes it, and pass
for the continuation of a stream whose end the shard has lost.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from actors.replay.flow.batches import LOG_SECONDS, Call, ShardUnavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Message:
    """Encoded blocks of one shard."""

    header: bytes
    payload: Any  # bytes of the blocks, or where they are
    num_bytes: int
    num_steps: int
    release: Callable[[], None] = lambda: None  # called when it is acknowledged


class InsertPort(Protocol):
    """Insert calls to one shard."""

    def connect(self) -> None:
        """Learn whom later messages are for.

        Raises:
            ShardUnavailable: The shard is away and may come back.
        """
        ...

    def insert(self, message: Message) -> Call:
        """Send a message; returns at once."""
        ...

    def done(self, call: Call) -> bool:
        """Whether the call is done."""
        ...

    def result(self, call: Call) -> Any:
        """The answer of a call, once it is done.

        Raises:
            ShardUnavailable: The shard is away and may come back, or has been away since the message was sent.
        """
        ...


class MessageWindow:
    """Messages on their way to one shard, bounded in number and bytes; one may always be.

    Args:
        port: Calls to the shard.
        max_messages: Messages without acknowledgement.
        max_bytes: Bytes of them.
        on_acknowledged: Told of every message that its shard has acknowledged, in order.
        retry_seconds: Pause before an absent shard is asked again.
        sleep: Waits, for tests.
    """

    def __init__(
        self,
        port: InsertPort,
        max_messages: int,
        max_bytes: int,
        on_acknowledged: Callable[[Message], None] | None = None,
        retry_seconds: float = 0.1,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if max_messages < 1 or max_bytes < 1:
            raise ValueError(f"a window needs room for a message, got {max_messages} messages of {max_bytes} bytes")
        self._port, self._max_messages, self._max_bytes = port, max_messages, max_bytes
        self._on_acknowledged = on_acknowledged
        self._retry_seconds, self._sleep = retry_seconds, sleep
        self._open: deque[tuple[Message, Call]] = deque()
        self._bytes = 0
        self.resent = 0  # messages

    @property
    def pending_steps(self) -> int:
        """Steps sent and not acknowledged yet."""
        return sum(message.num_steps for message, _ in self._open)

    @property
    def pending_bytes(self) -> int:
        """Bytes sent and not acknowledged yet."""
        return self._bytes

    def send(self, message: Message) -> int:
        """Send a message, first waiting for room; the steps acknowledged meanwhile."""
        acknowledged = 0
        while self._open and not self._fits(message):
            acknowledged += self._take_oldest()
        self._open.append((message, self._port.insert(message)))
        self._bytes += message.num_bytes
        return acknowledged

    def settle(self, wait: bool = False) -> int:
        """Take the acknowledgements that are there, or wait for all; the steps acknowledged.

        Raises:
            Exception: What the shard raised.
        """
        acknowledged = 0
        while self._open and (wait or self._port.done(self._open[0][1])):
            acknowledged += self._take_oldest()
        return acknowledged

    def _fits(self, message: Message) -> bool:
        return len(self._open) < self._max_messages and self._bytes + message.num_bytes <= self._max_bytes

    def _take_oldest(self) -> int:
        """Wait for the oldest acknowledgement, sending again as needed; its steps."""
        while True:
            message, call = self._open[0]
            try:
                self._port.result(call)
            except ShardUnavailable as error:
                self._send_again(error)
            else:
                break
        self._open.popleft()
        self._bytes -= message.num_bytes
        message.release()
        if self._on_acknowledged is not None:
            self._on_acknowledged(message)
        return message.num_steps

    def _send_again(self, error: ShardUnavailable) -> None:
        """Wait until the shard answers, then send every message again."""
        start, next_log = time.monotonic(), 0.0
        while True:
            if time.monotonic() >= next_log:
                next_log = time.monotonic() + LOG_SECONDS
                waited = time.monotonic() - start
                logger.warning("%d messages wait %.0f s for a shard: %s", len(self._open), waited, error)
            self._sleep(self._retry_seconds)
            try:
                self._port.connect()
            except ShardUnavailable as again:
                error = again
            else:
                break
        self._open = deque((message, self._port.insert(message)) for message, _ in self._open)
        self.resent += len(self._open)
