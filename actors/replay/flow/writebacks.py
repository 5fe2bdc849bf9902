"""What a learner sends back about a batch: priorities and new values, each to the shard of its stream.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.replay.flow.batches import Call, ShardUnavailable
from actors.replay.flow.routing import route_many
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch

logger = logging.getLogger(__name__)


class WriteBackPort(Protocol):
    """Calls to shards; every call returns at once."""

    num_shards: int

    def write(
        self,
        shard: int,
        handle: NDArray[np.int64],
        values: dict[str, NDArray[Any]],
        priority: NDArray[np.float32] | None,
        version: int | None,
        length: int,
    ) -> Call:
        """See `ReplayShard.write`."""
        ...

    def wait(self, calls: list[Call], timeout: float) -> list[Call]:
        """Those of the calls that are done, waiting up to `timeout` seconds for the first."""
        ...

    def result(self, call: Call) -> Any:
        """The answer of a call that is done.

        Raises:
            ShardUnavailable: The shard's process did not answer.
            ValueError: The shard refused it.
        """
        ...


class WriteBackSender:
    """Sends write-backs and does not wait for them, with a bound on the calls in flight.

    A write-back to a shard that is away is lost: the shard's data is then restored with older priorities, which
    costs nothing but a little freshness.

    Args:
        port: Calls to the shards.
        max_calls: Calls in flight.
        wait_seconds: How long to wait for the oldest call at that bound before it is given up.
    """

    def __init__(self, port: WriteBackPort, max_calls: int = 64, wait_seconds: float = 1.0) -> None:
        if max_calls < 1:
            raise ValueError(f"max_calls must be at least 1, got {max_calls}")
        self._port, self._max_calls, self._wait_seconds = port, max_calls, wait_seconds
        self._calls: deque[Call] = deque()
        self.sent = 0  # calls
        self.failed = 0  # calls that a shard did not answer or refused

    def send(self, batch: SequenceBatch, result: UpdateResult, present: NDArray[np.bool_] | None = None) -> None:
        """Send the priorities and write-backs of an update to the shards of the batch.

        Args:
            batch: The batch that was trained on; only its handles, streams and length are read.
            result: What the update says about it.
            present: Shards [num_shards] worth a call, all by default; write-backs to the others count as failed.
        """
        if result.priorities is None and not result.writebacks:
            return
        shards = route_many(batch.stream_id, self._port.num_shards)
        for shard in np.unique(shards).tolist():
            if present is not None and not present[shard]:
                self.failed += 1
                continue
            rows = np.flatnonzero(shards == shard)
            values = {key: new[rows] for key, new in result.writebacks.items()}
            priority = None if result.priorities is None else result.priorities[rows]
            self._calls.append(
                self._port.write(shard, batch.handle[rows], values, priority, result.version, batch.shape[1])
            )
            self.sent += 1
            self.settle(self._max_calls)

    def settle(self, most: int = 0) -> None:
        """Take the answers that are there, and wait until at most `most` calls are in flight."""
        while self._calls:
            wait = self._wait_seconds if len(self._calls) > most else 0.0
            oldest = self._calls[0]
            if not self._port.wait([oldest], wait):
                if len(self._calls) <= most:
                    return
                self.failed += 1
            else:
                self._count(oldest)
            self._calls.popleft()

    def _count(self, call: Call) -> None:
        try:
            self._port.result(call)
        except (ShardUnavailable, ValueError) as error:
            self.failed += 1
            if self.failed == 1:
                reason = str(error).strip().rpartition("\n")[2]
                logger.warning("write-backs to the replay failed, later failures are only counted: %s", reason)
