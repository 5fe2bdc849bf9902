from __future__ import annotations

import resource
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.replay.store.files import FolderLock
from actors.replay.store.log import SegmentLog
from actors.replay.store.record import RAW, ZSTD, Encoder, RecordError, Steps
from actors.replay.store.scan import LogReader, Record, segment_path
from actors.replay.store.schema import Schema
from tests.actors.replay.crashes import tag_block


def make_steps(stream: int, first: int, count: int, extra: np.ndarray | None = None) -> tuple[Schema, Steps]:
    data = dict(tag_block(stream, first, count).data)
    if extra is not None:
        data["image"] = extra
    return Schema.of(data), Steps(stream, first, np.full(count, 3), data)


def write_log(folder: Path, blocks: int = 9, segment_bytes: int = 900) -> SegmentLog:
    folder.mkdir(parents=True, exist_ok=True)
    log = SegmentLog(LogReader(folder), segment_bytes)
    encoder = Encoder("none")
    for index in range(blocks):
        log.append([encoder.encode(*make_steps(index % 2, index // 2 * 5, 5))], sync=True)
    return log


def read_all(folder: Path) -> tuple[list[tuple[int, int]], LogReader]:
    """(stream, first step) of every record that reads back as it was written."""
    reader, found = LogReader(folder), []
    for record in reader.records:
        try:
            _, steps = reader.read(record)
        except RecordError:
            continue
        tags = steps.stream_id * 1_000_000 + np.arange(steps.first_step, steps.first_step + len(steps))
        np.testing.assert_array_equal(steps.data["tag"], tags)
        np.testing.assert_array_equal(steps.version, 3)
        found.append((steps.stream_id, steps.first_step))
    reader.close()
    return found, reader


BLOCKS = [(index % 2, index // 2 * 5) for index in range(9)]


def test_records_come_back_in_order_over_segments(tmp_path: Path) -> None:
    log = write_log(tmp_path)
    log.close()
    assert log.num_segments > 2
    assert log.nbytes == sum(path.stat().st_size for path in tmp_path.glob("segment-*"))
    found, reader = read_all(tmp_path)
    assert found == BLOCKS
    assert reader.damage == []


def test_the_last_segment_may_end_at_any_byte(tmp_path: Path) -> None:
    write_log(tmp_path / "log", segment_bytes=1 << 20).close()
    path = next((tmp_path / "log").glob("segment-*"))
    content = path.read_bytes()
    ends = [record.offset + record.nbytes for record in LogReader(tmp_path / "log").records]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        found, reader = read_all(tmp_path / "log")
        whole = sum(end <= size for end in ends)
        assert found == BLOCKS[:whole]
        assert reader.damage == []
        torn = size - ([0, *ends][whole] if whole else min(size, 32))
        assert sum(segment.torn_bytes for segment in reader.segments) in (torn, size)


def test_a_torn_tail_is_cut_and_the_log_goes_on(tmp_path: Path) -> None:
    write_log(tmp_path, segment_bytes=1 << 20).close()
    path = next(tmp_path.glob("segment-*"))
    path.write_bytes(path.read_bytes()[:-7])
    log = SegmentLog(LogReader(tmp_path), 1 << 20)
    log.append([Encoder("none").encode(*make_steps(0, 20, 5))], sync=True)
    log.close()
    found, reader = read_all(tmp_path)
    assert found == [*BLOCKS[:-1], (0, 20)]
    assert reader.damage == []


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_is_found_named_and_costs_one_record(tmp_path: Path, seed: int) -> None:
    write_log(tmp_path).close()
    rng = np.random.default_rng(seed)
    records = list(LogReader(tmp_path).records)
    paths = sorted(tmp_path.glob("segment-*"))
    path = paths[rng.integers(len(paths))]
    content = bytearray(path.read_bytes())
    byte = int(rng.integers(len(content)))
    content[byte] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    hit = [r for r in records if segment_path(tmp_path, r.segment) == path and r.offset <= byte < r.offset + r.nbytes]
    found, reader = read_all(tmp_path)
    lost = [(r.header.stream_id, r.header.first_step) for r in hit]
    assert found == [block for block in BLOCKS if block not in lost]
    assert [damage.file for damage in reader.damage] == [str(path)]
    assert not any(segment.torn_bytes for segment in reader.segments)
    if hit and byte >= hit[0].offset + 64:
        (damage,) = reader.damage
        assert (damage.offset, damage.stream_id, damage.first_step) == (hit[0].offset, *lost[0])
        assert f"at byte {hit[0].offset}: " in str(damage)
        assert f"of stream {lost[0][0]}" in str(damage)


def test_a_lost_end_of_an_older_segment_is_damage(tmp_path: Path) -> None:
    write_log(tmp_path).close()
    path = min(tmp_path.glob("segment-*"))
    path.write_bytes(path.read_bytes()[:-7])
    found, reader = read_all(tmp_path)
    assert len(found) == len(BLOCKS) - 1
    (damage,) = reader.damage
    assert damage.reason == "its body is cut off"
    assert damage.num_steps == 5


def test_other_format_versions_are_refused(tmp_path: Path) -> None:
    write_log(tmp_path).close()
    path = min(tmp_path.glob("segment-*"))
    content = bytearray(path.read_bytes())
    content[8:12] = struct.pack("<I", 7)
    content[28:32] = struct.pack("<I", zlib.crc32(content[:28]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} has format version 7, this program reads 1"):
        LogReader(tmp_path)


@pytest.fixture
def size_limit() -> Callable[[int], None]:
    """Sets the largest size of a file: writes beyond fail as on a full disk, with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("large", [False, True])
def test_a_failed_write_leaves_no_trace(tmp_path: Path, size_limit: Callable[[int], None], large: bool) -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 300_001) if large else (5, 3), np.uint8)
    log = SegmentLog(LogReader(tmp_path), 1 << 30)
    encoded = [Encoder("none").encode(*make_steps(0, first, 5, image)) for first in (0, 5, 10)]
    log.append(encoded[:1], sync=True)
    size = log.nbytes
    size_limit(size + encoded[1].nbytes + encoded[2].nbytes // 2)
    with pytest.raises(OSError, match="File too large"):
        log.append(encoded[1:], sync=True)
    assert log.nbytes == size == next(tmp_path.glob("segment-*")).stat().st_size
    size_limit(resource.RLIM_INFINITY)
    log.append(encoded[1:], sync=True)
    log.close()
    found, reader = read_all(tmp_path)
    assert found == [(0, 0), (0, 5), (0, 10)]
    assert reader.damage == []


def test_large_records_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    log = SegmentLog(LogReader(tmp_path), 40 << 20)
    images = [rng.integers(0, 255, (7, size), np.uint8) for size in (3, 999_999, 17, 1 << 20, 2_000_003, 5)]
    for index, image in enumerate(images):
        log.append([Encoder("none").encode(*make_steps(0, index * 7, 7, image))], sync=index % 2 == 0)
    log.close()
    reader = LogReader(tmp_path)
    for record, image in zip(reader.records, images, strict=True):
        np.testing.assert_array_equal(reader.read(record)[1].data["image"], image)


def test_auto_compresses_what_pays_and_asks_again_only_now_and_then() -> None:
    rng, encoder = np.random.default_rng(0), Encoder("auto")
    smooth = np.zeros((5, 4096), np.uint8)
    noise = rng.integers(0, 255, (5, 4096), np.uint8)
    assert encoder.encode(*make_steps(0, 0, 5, smooth)).codec == ZSTD
    assert encoder.encode(*make_steps(0, 5, 5, noise)).codec == RAW
    later = [encoder.encode(*make_steps(0, 5 * i, 5, smooth)).codec for i in range(2, 70)]
    assert later == [RAW] * 64 + [ZSTD] * 4
    assert Encoder("none").encode(*make_steps(0, 0, 5, smooth)).codec == RAW
    assert Encoder("zstd").encode(*make_steps(0, 0, 5, noise)).codec == ZSTD


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_steps_survive_encoding(tmp_path: Path, compression: str) -> None:
    schema, steps = make_steps(1, 40, 6, np.arange(6 * 2 * 3, dtype=">f4").reshape(6, 2, 3))
    steps = Steps(1 << 63, steps.first_step, np.array([2, 2, 9, 9, 9, -1]), steps.data)
    log = SegmentLog(LogReader(tmp_path), 1 << 20)
    log.append([Encoder(compression).encode(schema, steps)], sync=True)  # type: ignore[arg-type]
    reader = LogReader(tmp_path)
    found_schema, found = reader.read(next(reader.records))
    assert found_schema == schema
    assert (found.stream_id, found.first_step) == (1 << 63, 40)
    np.testing.assert_array_equal(found.version, steps.version)
    for key, values in steps.data.items():
        np.testing.assert_array_equal(found.data[key], values)
        assert found.data[key].dtype == values.dtype


def test_thinning_out_keeps_what_is_wanted_whenever_it_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path / "log", blocks=40)
    wanted = {(0, 0), (1, 20), (1, 45), (0, 95)}
    snapshots: list[Path] = []

    def snapshot(*_: object) -> None:
        snapshots.append(tmp_path / f"snapshot-{len(snapshots)}")
        shutil.copytree(tmp_path / "log", snapshots[-1])

    real_unlink, real_replace = Path.unlink, Path.replace
    monkeypatch.setattr(Path, "unlink", lambda p, **k: (snapshot(), real_unlink(p, **k))[1])
    monkeypatch.setattr(Path, "replace", lambda p, t: (snapshot(), real_replace(p, t))[1])

    def needed(record: Record) -> bool:
        return (record.header.stream_id, record.header.first_step) in wanted

    log.keep(needed)
    monkeypatch.undo()
    assert len(snapshots) > 4
    snapshot()
    for folder in snapshots:
        found, reader = read_all(folder)
        assert wanted <= set(found)
        assert len(set(found)) == len(found)
        assert reader.damage == []
    assert set(found) == wanted
    assert log.num_segments == 4
    log.append([Encoder("none").encode(*make_steps(0, 100, 5))], sync=True)
    assert read_all(tmp_path / "log")[0] == [(0, 0), (1, 20), (1, 45), (0, 95), (0, 100)]


def test_only_one_process_has_a_folder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(ValueError, match=r"is in use: process \d+ writes it"):
        FolderLock(tmp_path, patience=0.1)
    lock.release()
    FolderLock(tmp_path, patience=0.1).release()
