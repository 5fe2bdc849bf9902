"""Shared-memory slots: layout, permissions to write, and what stays behind."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.replay.store.schema import Column, Schema
from actors.replay.wire.shared import SlotError
from actors.replay.wire.slots import OpenSlots, SlotLayout, SlotPool, SlotTicket
from envs.scratch import remove_abandoned

SCHEMA = Schema((Column("image", "|u1", (5, 3)), Column("is_first", "|b1", ()), Column("reward", "<f4", ())))
LAYOUT = SlotLayout(SCHEMA, 3, 7)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_every_array_is_aligned_and_they_do_not_overlap() -> None:
    spans = sorted(
        (offset, offset + int(np.prod(shape)) * np.dtype(dtype).itemsize)
        for dtype, shape, offset in LAYOUT.fields.values()
    )
    assert LAYOUT.fields["data/image"] == ("|u1", (3, 7, 5, 3), 64)
    assert LAYOUT.fields["data/is_first"] == ("|b1", (3, 7), 64 + 320)
    assert all(begin % 64 == 0 for begin, _ in spans)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert spans[-1][1] <= LAYOUT.nbytes


def test_what_a_shard_writes_the_learner_reads(tmp_path: Path) -> None:
    pool, shard = SlotPool(LAYOUT, 2, tmp_path), OpenSlots(tmp_path)
    slot = pool.acquire()
    with shard.writing(slot.ticket, LAYOUT) as batch:
        for number, array in enumerate((*batch.data.values(), batch.weight, batch.handle)):
            array[...] = number
    assert [int(array.max()) for array in slot.batch.data.values()] == [0, 1, 2]
    assert slot.batch.data["reward"].tolist() == [[2.0] * 7] * 3
    assert slot.batch.weight.tolist() == [3.0] * 3
    assert slot.batch.handle.tolist() == [[4] * 3] * 3
    assert slot.batch.shape == (3, 7)


def test_an_old_ticket_may_not_write(tmp_path: Path) -> None:
    pool, shard = SlotPool(LAYOUT, 1, tmp_path), OpenSlots(tmp_path)
    slot = pool.acquire()
    old = slot.ticket
    pool.release(slot)
    with pytest.raises(SlotError, match="handed out again: ticket 1 is not 0"), shard.writing(old, LAYOUT):
        pass
    again = pool.acquire()
    assert again is slot
    with pytest.raises(SlotError, match="handed out again: ticket 1 is not 2"), shard.writing(old, LAYOUT):
        pass


def test_a_ticket_that_ends_while_it_is_written_is_noticed(tmp_path: Path) -> None:
    pool, shard = SlotPool(LAYOUT, 1, tmp_path), OpenSlots(tmp_path)
    slot = pool.acquire()
    with pytest.raises(SlotError, match="handed out again"), shard.writing(slot.ticket, LAYOUT):
        pool.release(slot)


def test_late_writes_into_a_retired_slot_reach_nobody(tmp_path: Path) -> None:
    pool, shard = SlotPool(LAYOUT, 1, tmp_path), OpenSlots(tmp_path)
    first = pool.acquire()
    writing = shard.writing(first.ticket, LAYOUT)
    late = writing.__enter__()
    pool.retire(first)
    fresh = pool.acquire()
    assert len(files(tmp_path)) == 1
    late.data["reward"][:] = 13.0
    with pytest.raises(SlotError, match="handed out again"):
        writing.__exit__(None, None, None)
    assert not fresh.batch.data["reward"].any()
    with shard.writing(fresh.ticket, LAYOUT):
        assert len(shard._files._memory) == 1  # the mapping of the retired file is dropped


@pytest.mark.parametrize("other", [SlotLayout(SCHEMA, 3, 8), SlotLayout(SCHEMA, 4, 7), SlotLayout(SCHEMA, 7, 3)])
def test_another_layout_may_not_write(tmp_path: Path, other: SlotLayout) -> None:
    pool, shard = SlotPool(LAYOUT, 1, tmp_path), OpenSlots(tmp_path)
    with pytest.raises(SlotError, match="another layout"), shard.writing(pool.acquire().ticket, other):
        pass


def test_foreign_files_are_not_written(tmp_path: Path) -> None:
    shard = OpenSlots(tmp_path)
    (tmp_path / "worldfleet-slot-tiny").write_bytes(b"1")
    (tmp_path / "worldfleet-slot-other").write_bytes(bytes(LAYOUT.nbytes))
    (tmp_path / "precious").write_bytes(bytes(LAYOUT.nbytes))
    (tmp_path / "worldfleet-slot-link").symlink_to(tmp_path / "precious")
    for name, message in (
        ("worldfleet-slot-tiny", "too small"),
        ("worldfleet-slot-other", "not a slot of this version"),
        ("worldfleet-slot-absent", "cannot open"),
        ("worldfleet-slot-link", "cannot open"),
        ("precious", "not the name of a slot"),
        ("worldfleet-slot/../precious", "not the name of a slot"),
    ):
        with pytest.raises(SlotError, match=message), shard.writing(SlotTicket(name, 1), LAYOUT):
            pass


def test_two_learners_have_slots_of_their_own(tmp_path: Path) -> None:
    one, two = SlotPool(LAYOUT, 1, tmp_path), SlotPool(LAYOUT, 1, tmp_path)
    a, b = one.acquire(), two.acquire()
    assert a.ticket.name != b.ticket.name
    a.batch.data["reward"][:] = 1.0
    assert not b.batch.data["reward"].any()
    one.close()
    assert files(tmp_path) == [b.ticket.name]
    assert a.batch.data["reward"].all()  # views outlive the file


def test_closed_pools_and_dropped_ones_leave_no_file(tmp_path: Path) -> None:
    pool = SlotPool(LAYOUT, 3, tmp_path)
    slots = [pool.acquire() for _ in range(3)]
    assert (len(files(tmp_path)), pool.nbytes) == (3, 3 * LAYOUT.nbytes)
    pool.retire(slots[0])
    assert (len(files(tmp_path)), pool.nbytes) == (2, 2 * LAYOUT.nbytes)
    pool.close()
    assert files(tmp_path) == []
    pool = SlotPool(LAYOUT, 1, tmp_path)
    pool.acquire()
    del pool
    assert files(tmp_path) == []


def test_slots_of_a_killed_learner_are_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.actors.replay.wire.test_slots import LAYOUT\n"
        "from actors.replay.wire.slots import SlotPool\n"
        f"pool = SlotPool(LAYOUT, 2, Path({str(tmp_path)!r})); pool.acquire(); pool.acquire()\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    mine = SlotPool(LAYOUT, 1, tmp_path)
    mine.acquire()
    (tmp_path / "other").touch()
    assert remove_abandoned([tmp_path]) == []  # both are alive
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert len(files(tmp_path)) == 4
    SlotPool(LAYOUT, 1, tmp_path)
    assert len(files(tmp_path)) == 2


def test_slots_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in (
        f"worldfleet-slot-{os.getuid() + 1}-1-999999-1-ab-1",
        f"worldfleet-slot-{os.getuid()}-1-999999-1-ab-1",
    ):
        (tmp_path / name).touch()
    assert remove_abandoned([tmp_path]) == []  # another user's, and one of another container


def test_private_memory_has_no_file_and_no_ticket(tmp_path: Path) -> None:
    pool = SlotPool(LAYOUT, 1, None)
    slot = pool.acquire()
    slot.batch.data["reward"][:] = 2.0
    assert not pool.shared
    with pytest.raises(AssertionError):
        _ = slot.ticket
    pool.retire(slot)
    assert not pool.acquire().batch.data["reward"].any()


def test_a_full_file_system_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match=r"cannot make a file of \d+ bytes"):
        SlotPool(LAYOUT, 1, tmp_path / "absent").acquire()
    huge = SlotLayout(Schema((Column("image", "|u1", (1 << 40,)),)), 1 << 10, 1 << 10)
    with pytest.raises(SlotError, match=r"cannot make a file of \d+ bytes"):
        SlotPool(huge, 1, tmp_path).acquire()
    assert files(tmp_path) == []
