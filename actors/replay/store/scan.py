"""Reading a shard's log: finds every intact record whatever happened to the files.

A log is a folder of segments `segment-<first sequence number>.log`, each a 32-byte header and records.
After damage the search goes on at the next intact record header. A record that the last segment holds the
beginning of is a torn tail: a write that a crash interrupted, never acknowledged.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actors.replay.store.record import (
    FORMAT_VERSION,
    HEADER_BYTES,
    MAGIC,
    RecordError,
    RecordHeader,
    Steps,
    decode,
    parse_header,
)
from actors.replay.store.schema import Schema
from native import crc32

_SEGMENT_MAGIC = b"WFREPLOG"
_SEGMENT = struct.Struct("<8sIQ8xI")
SEGMENT_HEADER_BYTES = _SEGMENT.size
_SEGMENT_CHECKED_BYTES = SEGMENT_HEADER_BYTES - 4


class Record(NamedTuple):
    """Where an intact header lies and which steps follow it."""

    segment: int  # first sequence number of its segment
    offset: int  # of the header in the file
    header: RecordHeader

    @property
    def nbytes(self) -> int:
        """Bytes of the record."""
        return HEADER_BYTES + self.header.body_bytes

    @property
    def sequence(self) -> int:
        """Place in the order of writing."""
        return self.header.sequence

    @property
    def end_step(self) -> int:
        """Stream index after the last step."""
        return self.header.first_step + self.header.num_steps


@dataclass(frozen=True)
class Damage:
    """Bytes of a file that cannot be read, and the steps they held where a header still says so."""

    file: str
    offset: int
    num_bytes: int
    reason: str
    stream_id: int | None = None
    first_step: int = 0
    num_steps: int = 0

    def __str__(self) -> str:
        steps = ""
        if self.stream_id is not None:
            steps = f", steps {self.first_step} to {self.first_step + self.num_steps - 1} of stream {self.stream_id}"
        return f"{self.file} at byte {self.offset}: {self.num_bytes} bytes, {self.reason}{steps}"


def segment_path(directory: Path, first_sequence: int) -> Path:
    """The file of a segment."""
    return directory / f"segment-{first_sequence:012d}.log"


def segment_header(first_sequence: int) -> bytes:
    """The beginning of a segment file."""
    packed = _SEGMENT.pack(_SEGMENT_MAGIC, FORMAT_VERSION, first_sequence, 0)
    return packed[:_SEGMENT_CHECKED_BYTES] + struct.pack("<I", crc32(packed[:_SEGMENT_CHECKED_BYTES]))


@dataclass
class Segment:
    """What one segment file holds."""

    first_sequence: int
    path: Path
    nbytes: int  # of the file up to a torn tail
    records: list[Record]
    torn_bytes: int = 0


class LogReader:
    """The records of a log's files as they are; nothing is changed.

    Args:
        directory: Folder of the segments; it may be empty or missing.

    Raises:
        ValueError: A file has another format version.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.damage: list[Damage] = []
        self._buffer = np.empty(0, np.uint8)
        self._file: tuple[int, int] | None = None  # (segment, descriptor) last read
        paths = sorted(directory.glob("segment-*.log"))
        self.segments = [self._scan(path, last=path == paths[-1]) for path in paths]

    @property
    def records(self) -> Iterator[Record]:
        """All records in the order of writing."""
        return (record for segment in self.segments for record in segment.records)

    def read(self, record: Record) -> tuple[Schema, Steps]:
        """The steps of a record; their arrays hold until the next call.

        Raises:
            RecordError: They are damaged; the damage is noted.
        """
        if len(self._buffer) < record.header.body_bytes:
            self._buffer = np.empty(record.header.body_bytes, np.uint8)
        body = self._buffer[: record.header.body_bytes]
        try:
            if os.preadv(self._open(record.segment), [body.data], record.offset + HEADER_BYTES) != len(body):
                raise RecordError("its body is cut off")
            return decode(record.header, body)
        except RecordError as error:
            self._note(self._damage_of(record, str(error)))
            raise

    def close(self) -> None:
        """Close the file last read."""
        if self._file is not None:
            os.close(self._file[1])
            self._file = None

    def _note(self, damage: Damage) -> None:
        if damage not in self.damage:
            self.damage.append(damage)

    def _open(self, segment: int) -> int:
        if self._file is None or self._file[0] != segment:
            self.close()
            path = segment_path(self.directory, segment)
            self._file = (segment, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return self._file[1]

    def _damage_of(self, record: Record, reason: str) -> Damage:
        path, header = segment_path(self.directory, record.segment), record.header
        steps = (header.stream_id, header.first_step, header.num_steps)
        return Damage(str(path), record.offset, record.nbytes, reason, *steps)

    def _scan(self, path: Path, last: bool) -> Segment:
        first_sequence = int(path.stem.removeprefix("segment-"))
        segment = Segment(first_sequence, path, path.stat().st_size, [])
        if segment.nbytes:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
                self._scan_content(segment, content, last)
        if last and segment.records:
            self._check_last(segment)
        return segment

    def _scan_content(self, segment: Segment, content: mmap.mmap, last: bool) -> None:
        offset, size = SEGMENT_HEADER_BYTES, len(content)
        if not _is_segment_header(content[:SEGMENT_HEADER_BYTES], segment.path):
            offset = self._skip(segment, content, 0, last)
        while offset < size:
            header = parse_header(content[offset : offset + HEADER_BYTES])
            if header is None or offset + HEADER_BYTES + header.body_bytes > size:
                offset = self._skip(segment, content, offset, last)
                continue
            record = Record(segment.first_sequence, offset, header)
            segment.records.append(record)
            offset += record.nbytes

    def _skip(self, segment: Segment, content: mmap.mmap, offset: int, last: bool) -> int:
        """Note what is wrong at `offset`; where to go on."""
        size = len(content)
        found = _next_record(content, offset + 1)
        end = size if found is None else found
        header = parse_header(content[offset : offset + HEADER_BYTES])
        if found is None and last:
            segment.nbytes = offset
            if header is not None or size - offset < (HEADER_BYTES if offset else SEGMENT_HEADER_BYTES):
                segment.torn_bytes = size - offset
                return size
        if header is None:
            self.damage.append(Damage(str(segment.path), offset, end - offset, "no intact header"))
        else:
            record = Record(segment.first_sequence, offset, header)
            self.damage.append(self._damage_of(record, "its body is cut off"))
        return end

    def _check_last(self, segment: Segment) -> None:
        """A crash may have left the header of the last record and not all of its body."""
        record = segment.records[-1]
        try:
            self.read(record)
        except RecordError:
            if record.offset + record.nbytes == segment.nbytes:
                segment.nbytes = record.offset
            segment.records.pop()
        finally:
            self.close()


def _is_segment_header(head: bytes, path: Path) -> bool:
    if len(head) < SEGMENT_HEADER_BYTES:
        return False
    magic, version, _, crc = _SEGMENT.unpack(head)
    if magic != _SEGMENT_MAGIC or crc32(head[:_SEGMENT_CHECKED_BYTES]) != crc:
        return False
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, this program reads {FORMAT_VERSION}")
    return True


def _next_record(content: mmap.mmap, begin: int) -> int | None:
    """Offset of the next whole record."""
    size = len(content)
    while (begin := content.find(MAGIC, begin)) >= 0:
        header = parse_header(content[begin : begin + HEADER_BYTES])
        if header is not None and begin + HEADER_BYTES + header.body_bytes <= size:
            return begin
        begin += 1
    return None


def read_bytes(path: Path, record: Record) -> bytes:
    """A whole record as stored."""
    with path.open("rb") as file:
        file.seek(record.offset)
        return file.read(record.nbytes)
