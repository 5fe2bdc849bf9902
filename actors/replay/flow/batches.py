"""The learner's side of the replay: batches asked for ahead of time, from shards that may die.

    masses of the shards -> draw -> tickets in flight -> batches in the order in which they are complete
          ^                             |
          +---- probe, in the background+---- a shard fails: its tickets are drawn again among the others

Nothing here knows how calls travel; `ShardPort` does them.

Letters: B sequences, T steps, K components of the selector.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.replay.config import TRAIN
from actors.replay.draw.masses import ProbeSchedule, ShardMasses, ShardReport
from actors.replay.flow.requests import SampleRequest
from actors.replay.sharded import normalise_weights, slice_batch
from actors.replay.store.schema import Schema
from actors.replay.wire.shared import SlotError
from actors.replay.wire.slots import Slot, SlotLayout, SlotPool
from envs.scratch import SHARED_MEMORY
from learner.batch import SequenceBatch

logger = logging.getLogger(__name__)

Transport = Literal["auto", "slots", "objects"]
Call = Any
"""A call in flight: hashable, compared by identity."""

LOG_SECONDS = 10.0
"""Time between two complaints about the same thing."""


class ShardUnavailable(RuntimeError):
    """A call to a shard failed because its process is dead, restarting or unreachable."""


class ShardPort(Protocol):
    """Calls to shards; every call returns at once."""

    node: str  # where the learner runs
    num_shards: int

    def probe(self, shard: int, length: int, view: str) -> Call:
        """Ask for a `ShardReport` of a view."""
        ...

    def sample(self, shard: int, request: SampleRequest) -> Call:
        """Ask a shard to write into a slot, which it answers with True, or for a `SplitBatch`; False if empty."""
        ...

    def wait(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """Those of the calls that are done, after waiting up to `timeout` seconds for the first."""
        ...

    def result(self, call: Call) -> Any:
        """The answer of a call that is done.

        Raises:
            ShardUnavailable: The shard's process did not answer.
            SlotError: It could not use the slot.
        """
        ...


@dataclass(frozen=True)
class _Part:
    """The rows of a batch that one shard fills."""

    shard: int
    low: int
    high: int
    by_slot: bool


@dataclass(eq=False)
class _Ticket:
    """A batch in the making."""

    slot: Slot
    asked: float  # clock time
    open: dict[Call, _Part] = field(default_factory=dict)


class BatchQueue:
    """Endless batches from shards, each from one shard drawn by the shards' masses, or mixed.

    A shard whose call fails, or that does not answer within `stall_seconds` while others have data, leaves the draw
    at once and comes back with its first report. Batches come in the order in which they are complete.

    Args:
        port: Calls to the shards.
        batch_size: Sequences per batch, B.
        length: Steps per sequence, T.
        seed: Seed of the choice of shards.
        in_flight: Batches asked for ahead.
        mixed: Whether a batch mixes shards.
        transport: "slots" has shards of this node write into shared memory, "objects" has them send objects,
            "auto" takes slots wherever a shard is on this node and can open them.
        wait_seconds: How long to wait while no shard has anything.
        stall_seconds: How long one shard may take for its part.
        clock: Seconds, for tests.
        slot_directory: Where the slots' files are; the shards look there too.
        view: Who draws.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        port: ShardPort,
        batch_size: int,
        length: int,
        seed: int,
        in_flight: int = 2,
        mixed: bool = False,
        transport: Transport = "auto",
        wait_seconds: float = 60.0,
        stall_seconds: float = 1.0,
        clock: Callable[[], float] = monotonic,
        slot_directory: Path = SHARED_MEMORY,
        view: str = TRAIN,
    ) -> None:
        for name, value in (("in_flight", in_flight), ("batch_size", batch_size), ("length", length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._port, self._clock, self._slot_directory = port, clock, slot_directory
        self._batch_size, self._length, self._view = batch_size, length, view
        self._rng = np.random.default_rng(seed)
        self._in_flight, self._mixed, self._transport = in_flight, mixed, transport
        self._wait_seconds, self._stall_seconds = wait_seconds, stall_seconds
        self._book = ShardMasses(port.num_shards)
        self._schedule = ProbeSchedule(port.num_shards)
        self._unheard = set(range(port.num_shards))  # no answer and no failure yet: the first draws wait for them
        self._first_probe: float | None = None  # clock time
        self._probes: dict[Call, int] = {}
        self._tickets: list[_Ticket] = []
        self._ready: deque[_Ticket] = deque()
        self._held: Slot | None = None
        self._pool: SlotPool | None = None
        self._nodes = [""] * port.num_shards
        self._closed_to: set[int] = set()  # shards that cannot open our slots
        self._next_log = 0.0
        self._stats = dict.fromkeys(
            ("batches", "waits", "wait_seconds", "retries", "slot_bytes", "object_bytes", "shards_left"), 0.0
        )

    def __iter__(self) -> Iterator[SequenceBatch]:
        return self

    def __next__(self) -> SequenceBatch:
        """The next batch; its `data` is valid until the one after it is taken, its other arrays are the caller's.

        Raises:
            TimeoutError: No shard has had a sequence of that length for `wait_seconds`.
            ValueError: `transport` is "slots" and a shard is on another node, or the replay has no such view.
            SlotError: `transport` is "slots" and the slots cannot be made or opened.
        """
        if self._held is not None:
            self._slots.release(self._held)
            self._held = None
        start = self._clock()
        self._ask()
        self._stats["waits"] += not self._ready
        while not self._ready:
            self._step(start)
        self._stats["wait_seconds"] += self._clock() - start
        self._held = self._ready.popleft().slot
        self._stats["batches"] += 1
        self._ask()
        batch = self._held.batch
        owned = replace(batch, data={}).map_rows(np.copy)
        return normalise_weights(replace(owned, data=batch.data))

    def stats(self) -> dict[str, float]:
        """Counts since the beginning: batches, waits and their seconds, tickets drawn again, bytes by transport, times
        a shard left the draw; and how many shards are in it now and how many of them write into slots."""
        slots = sum(self._uses_slots(shard) for shard in np.flatnonzero(self._book.present).tolist())
        shards = {"shards_present": float(self._book.present.sum()), "shards_by_slot": float(slots)}
        return self._stats | shards

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which shards [num_shards] are in the draw."""
        return self._book.present.copy()

    def lose(self, shard: int, reason: str) -> None:
        """Take a shard out of the draw and draw what it was asked for again."""
        if self._book.leave(shard):
            self._stats["shards_left"] += 1
            logger.warning("shard %d leaves the draw: %s", shard, reason)
        self._unheard.discard(shard)
        self._schedule.failed(shard, self._clock())
        for ticket in [t for t in self._tickets if any(part.shard == shard for part in t.open.values())]:
            self._abandon(ticket)

    def close(self) -> None:
        """Give the shared memory back."""
        self._tickets.clear()
        self._probes.clear()
        if self._pool is not None:
            self._pool.close()

    @property
    def _slots(self) -> SlotPool:
        assert self._pool is not None
        return self._pool

    def _step(self, start: float) -> None:
        """Wait for one answer, and give up what takes too long."""
        now = self._clock()
        calls = [*self._probes, *(call for ticket in self._tickets for call in ticket.open)]
        timeout = min(self._schedule.wait(now), self._stall_seconds) if not self._tickets else self._stall_seconds
        for call in self._port.wait(calls, max(timeout, 0.001)):
            self._take(call)
        now = self._clock()
        self._drop_stalled(now)
        if not self._tickets and not self._ready and now - start > LOG_SECONDS and now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            logger.warning("no batch for %.0f s: %s", now - start, self._book.describe())
        if not self._tickets and not self._ready and now - start > self._wait_seconds:
            raise TimeoutError(
                f"none of the {self._port.num_shards} shards holds a sequence of {self._length} steps after "
                f"{now - start:.1f} s: {self._book.describe()}"
            )
        self._ask()

    def _ask(self) -> None:
        """Send the probes that are due and as many tickets as may be in flight."""
        now = self._clock()
        if self._first_probe is None:
            self._first_probe = now
        elif now - self._first_probe > self._stall_seconds:
            self._unheard.clear()
        for shard in self._schedule.due(now):
            if shard not in self._probes.values():
                self._probes[self._port.probe(shard, self._length, self._view)] = shard
        while len(self._tickets) + len(self._ready) < self._in_flight and self._book.drawable and not self._unheard:
            self._tickets.append(self._ask_batch(now))

    def _ask_batch(self, now: float) -> _Ticket:
        ticket = _Ticket(self._slots.acquire(), now)
        if self._mixed:
            parts = self._book.split(self._rng, self._batch_size)
        else:
            parts = [(self._book.draw(self._rng), 0, self._batch_size)]
        totals, num_items = tuple(self._book.totals.tolist()), self._book.num_items
        for shard, low, high in parts:
            by_slot = self._uses_slots(shard)
            slot_ticket = ticket.slot.ticket if by_slot else None
            part = (high - low, self._length, totals, num_items, self._view)
            request = SampleRequest(*part, slot_ticket, self._batch_size, low)
            ticket.open[self._port.sample(shard, request)] = _Part(shard, low, high, by_slot)
        self._schedule.asked_batch()
        return ticket

    def _take(self, call: Call) -> None:
        """Book the answer of a call."""
        shard = self._probes.pop(call, None)
        if shard is not None:
            self._take_report(shard, call)
            return
        ticket = next((t for t in self._tickets if call in t.open), None)
        if ticket is None:
            return  # given up meanwhile
        part = ticket.open[call]
        try:
            answer = self._port.result(call)
        except ShardUnavailable as error:
            self.lose(part.shard, str(error))
        except SlotError as error:
            self._refuse(part.shard, ticket, error)
        else:
            self._take_part(ticket, call, answer)

    def _take_report(self, shard: int, call: Call) -> None:
        try:
            report: ShardReport = self._port.result(call)
        except ShardUnavailable as error:
            self.lose(shard, str(error))
            return
        self._unheard.discard(shard)
        if self._transport == "slots" and report.node != self._port.node:
            raise ValueError(f"transport is 'slots' but shard {shard} runs on another node; use 'auto' or 'objects'")
        if self._nodes[shard] != report.node:
            self._nodes[shard] = report.node
            self._closed_to.discard(shard)
        if self._pool is None and report.schema is not None:
            self._pool = self._make_pool(SlotLayout(Schema.from_lists(report.schema), self._batch_size, self._length))
        if self._book.report(shard, report) and self._stats["batches"]:
            logger.info("shard %d is in the draw again", shard)
        self._schedule.answered(shard, bool(report.masses.any()), self._clock())

    def _take_part(self, ticket: _Ticket, call: Call, answer: Any) -> None:
        part = ticket.open[call]
        if answer is False:
            self.lose(part.shard, "it is empty")
            return
        if part.by_slot:
            moved = "slot_bytes"
        else:
            answer.copy_to(slice_batch(ticket.slot.batch, part.low, part.high))
            moved = "object_bytes"
        self._stats[moved] += self._slots.layout.nbytes * (part.high - part.low) / self._batch_size
        del ticket.open[call]
        if not ticket.open:
            self._tickets.remove(ticket)
            self._ready.append(ticket)

    def _abandon(self, ticket: _Ticket) -> None:
        """Give a ticket up; a new one is drawn in its place, with memory of its own."""
        self._tickets.remove(ticket)
        self._slots.retire(ticket.slot)
        self._stats["retries"] += 1

    def _refuse(self, shard: int, ticket: _Ticket, error: SlotError) -> None:
        """A shard of this node cannot use our slots: a container with memory of its own, or another schema."""
        if self._transport == "slots":
            raise error
        if shard not in self._closed_to:
            logger.warning("shard %d sends objects from now on: %s", shard, error)
            self._closed_to.add(shard)
        self._abandon(ticket)

    def _drop_stalled(self, now: float) -> None:
        """Shards that keep a batch waiting leave the draw, if others can do their part."""
        late = {
            part.shard
            for ticket in self._tickets
            if now - ticket.asked > self._stall_seconds
            for call, part in ticket.open.items()
            if not self._port.wait([call], 0.0)  # the learner may have been away for longer
        }
        for shard in sorted(late):
            if self._book.drawable_without(shard):
                self.lose(shard, f"no answer for {self._stall_seconds:g} s")

    def _uses_slots(self, shard: int) -> bool:
        pool = self._pool
        shared = pool is not None and pool.shared
        return shared and self._nodes[shard] == self._port.node and shard not in self._closed_to

    def _make_pool(self, layout: SlotLayout) -> SlotPool:
        """Slots for the batches in flight and the one that is held."""
        count = self._in_flight + 1
        if self._transport != "objects":
            try:
                pool = SlotPool(layout, count, self._slot_directory)
                pool.release(pool.acquire())
                return pool
            except SlotError as error:
                if self._transport == "slots":
                    raise
                logger.warning("batches come as objects: %s", error)
        return SlotPool(layout, count, directory=None)
