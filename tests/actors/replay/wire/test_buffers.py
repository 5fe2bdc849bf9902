"""Messages in shared memory: what is packed is read, memory is used again, and nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from actors.replay.wire.buffers import BufferTicket, OpenBuffers, SharedBufferPool, make_buffer_pool
from actors.replay.wire.shared import SlotError


def pieces(*sizes: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(sum(sizes))
    return [rng.integers(0, 256, size, np.uint8) for size in sizes]


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_packed_is_read_without_a_copy(tmp_path: Path) -> None:
    box, shard = SharedBufferPool(tmp_path), OpenBuffers(tmp_path)
    parts = pieces(100, 0, 70_000, 5)
    buffer = box.pack(parts)
    read = shard.read(buffer.ticket)
    np.testing.assert_array_equal(read, np.concatenate(parts))
    np.testing.assert_array_equal(buffer.content, read)
    assert not read.flags.writeable
    buffer.content[3] ^= 1
    assert read[3] == buffer.content[3]


def test_buffers_on_the_way_are_left_alone_and_those_taken_back_are_used_again(tmp_path: Path) -> None:
    box, shard = SharedBufferPool(tmp_path), OpenBuffers(tmp_path)
    one, two = box.pack(pieces(1000)), box.pack(pieces(999))
    assert one.ticket.name != two.ticket.name
    np.testing.assert_array_equal(shard.read(one.ticket), pieces(1000)[0])
    box.take_back(one)
    again = box.pack(pieces(1024))
    assert again.ticket == BufferTicket(one.ticket.name, 1024)
    np.testing.assert_array_equal(shard.read(two.ticket), pieces(999)[0])
    np.testing.assert_array_equal(shard.read(again.ticket), pieces(1024)[0])


def test_a_buffer_that_is_too_small_is_replaced(tmp_path: Path) -> None:
    box, shard = SharedBufferPool(tmp_path), OpenBuffers(tmp_path)
    small = box.pack(pieces(1000))
    shard.read(small.ticket)
    box.take_back(small)
    large = box.pack(pieces(5000))
    assert names(tmp_path) == {box.mark.name, large.ticket.name}
    assert large.capacity == 8192
    np.testing.assert_array_equal(shard.read(large.ticket), pieces(5000)[0])
    with pytest.raises(SlotError, match="cannot open"):
        shard.read(small.ticket)


def test_foreign_and_short_files_are_refused(tmp_path: Path) -> None:
    box, shard = SharedBufferPool(tmp_path), OpenBuffers(tmp_path)
    assert shard.read(box.mark).nbytes == 0
    with pytest.raises(SlotError, match="has 1 bytes, its ticket says 9"):
        shard.read(BufferTicket(box.mark.name, 9))
    (tmp_path / "worldfleet-slot-1").write_bytes(b"12345678")
    (tmp_path / "worldfleet-buffer-empty").touch()
    for name, message in (
        ("worldfleet-slot-1", "not the name of a buffer"),
        ("worldfleet-buffer-/../x", "not the name of a buffer"),
        ("worldfleet-buffer-empty", "is empty"),
        ("worldfleet-buffer-absent", "cannot open"),
    ):
        with pytest.raises(SlotError, match=message):
            shard.read(BufferTicket(name, 1))


def test_closed_and_dropped_boxes_leave_no_file_and_dead_processes_are_cleaned_up_after(tmp_path: Path) -> None:
    box = SharedBufferPool(tmp_path)
    box.pack(pieces(10))
    box.close()
    assert names(tmp_path) == set()
    box = SharedBufferPool(tmp_path)
    box.pack(pieces(10))
    del box
    assert names(tmp_path) == set()
    code = (
        "import os; from pathlib import Path; import numpy as np\n"
        "from actors.replay.wire.buffers import SharedBufferPool\n"
        f"box = SharedBufferPool(Path({str(tmp_path)!r})); box.pack([np.zeros(10, np.uint8)]); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # it dies without any clean-up
    assert len(names(tmp_path)) == 2
    box = SharedBufferPool(tmp_path)
    assert names(tmp_path) == {box.mark.name}


def test_without_shared_memory_there_is_no_box(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert make_buffer_pool(tmp_path / "absent") is None
    assert "blocks go through the object store" in caplog.text
    assert make_buffer_pool(tmp_path) is not None
