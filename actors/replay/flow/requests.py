"""What a learner asks of a shard.

Letters: K components of a view's selector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgpack

from actors.replay.config import TRAIN
from actors.replay.wire.slots import SlotTicket


@dataclass(frozen=True)
class SampleRequest:
    """What is asked of one shard: a batch, or a part of one."""

    batch_size: int  # sequences of this part
    length: int  # steps of each
    totals: tuple[float, ...]  # [K] masses over all shards
    num_items: float  # valid starts over all shards
    view: str = TRAIN  # who draws
    ticket: SlotTicket | None = None  # of the slot to write into
    slot_size: int = 0  # sequences of the whole slot
    low: int = 0  # first row of the part in the slot

    def pack(self) -> bytes:
        """As bytes: one small argument makes the cheapest call."""
        slot = [self.ticket.name, self.ticket.number, self.slot_size, self.low] if self.ticket is not None else []
        packed: bytes = msgpack.packb([self.batch_size, self.length, self.totals, self.num_items, self.view, *slot])
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> SampleRequest:
        """The inverse of `pack`."""
        batch_size, length, totals, num_items, view, *slot = msgpack.unpackb(packed)
        request = cls(batch_size, length, tuple(totals), num_items, view)
        if not slot:
            return request
        name, number, slot_size, low = slot
        return replace(request, ticket=SlotTicket(name, number), slot_size=slot_size, low=low)
