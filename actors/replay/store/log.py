"""A shard's log on disk: records appended to segments, and segments thinned out when their steps are gone.

What was appended and synced is found again by `scan.LogReader` after any crash. A failed write leaves no
trace: the file is cut back, so that the log can go on when there is room again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from threading import Lock

from actors.replay.store.files import AppendFile, sync_folder, write_file
from actors.replay.store.record import Encoded, RecordHeader
from actors.replay.store.scan import (
    SEGMENT_HEADER_BYTES,
    LogReader,
    Record,
    Segment,
    read_bytes,
    segment_header,
    segment_path,
)

_BUFFER_BYTES = 4 << 20
_DENSE = 2 / 3  # a segment is written anew when less of it is still wanted


class SegmentLog:
    """Appends records; safe to use from two threads.

    Opening cuts a torn tail off the last segment; new records go to a new one.

    Args:
        reader: The scanned files of the log.
        segment_bytes: Size at which a new segment begins.
    """

    def __init__(self, reader: LogReader, segment_bytes: int) -> None:
        self.directory = reader.directory
        self._segment_bytes = segment_bytes
        self._lock = Lock()
        self._segments = {segment.first_sequence: segment for segment in reader.segments}
        self._open: tuple[Segment, AppendFile] | None = None
        self._buffer = mmap.mmap(-1, _BUFFER_BYTES)
        self._unsynced = False
        last = max(self._segments.values(), key=lambda s: s.first_sequence, default=None)
        if last is not None and last.path.stat().st_size > last.nbytes:
            self._cut(last)
        self.next_sequence = max((r.sequence + 1 for r in reader.records), default=0)
        self.next_sequence = max([self.next_sequence, *(s + 1 for s in self._segments)])
        for temporary in self.directory.glob("segment-*.tmp"):
            temporary.unlink()

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(segment.nbytes for segment in list(self._segments.values()))

    @property
    def num_segments(self) -> int:
        """Files on disk."""
        return len(self._segments)

    def append(self, records: Sequence[Encoded], sync: bool) -> None:
        """Append the records, all or none of them.

        Args:
            records: What to append.
            sync: Whether to return only when they are on the disk.

        Raises:
            OSError: They could not be written, or not be brought to the disk.
        """
        with self._lock:
            segment, file = self._segment_to_write()
            begin, first = segment.nbytes, self.next_sequence
            added: list[Record] = []
            try:
                for record in records:
                    parts = [record.header(self.next_sequence), record.meta, *record.columns]
                    file.append(segment.nbytes, parts)
                    added.append(Record(segment.first_sequence, segment.nbytes, _header_of(record, self.next_sequence)))
                    segment.nbytes += record.nbytes
                    self.next_sequence += 1
                if sync:
                    file.sync()
            except OSError:
                segment.nbytes, self.next_sequence = begin, first
                file.truncate(begin)  # the next append finds the file as before this one
                raise
            segment.records += added
            self._unsynced = not sync

    def sync(self) -> None:
        """Return when everything appended is on the disk.

        Raises:
            OSError: The disk refuses.
        """
        with self._lock:
            if self._unsynced and self._open is not None:
                self._open[1].sync()
                self._unsynced = False

    def keep(self, wanted: Callable[[Record], bool]) -> None:
        """Drop records that are not wanted: whole segments, and those of segments that are wanted in small part.

        A crash leaves every segment as it was or as it shall be.

        Raises:
            OSError: A segment could not be written anew; nothing that is wanted is lost.
        """
        with self._lock:
            self._close_segment()
            closed = list(self._segments.values())
        for segment in closed:
            kept = [record for record in segment.records if wanted(record)]
            if not kept:
                self._remove(segment)
            elif SEGMENT_HEADER_BYTES + sum(r.nbytes for r in kept) < _DENSE * segment.nbytes:
                self._rewrite(segment, kept)
        sync_folder(self.directory)

    def drop(self, unwanted: Callable[[Record], bool]) -> None:
        """Remove every record that is unwanted, the newest segment first."""
        self.close()
        for segment in sorted(self._segments.values(), key=lambda s: -s.first_sequence):
            kept = [record for record in segment.records if not unwanted(record)]
            if not kept:
                self._remove(segment)
                sync_folder(self.directory)
            elif len(kept) < len(segment.records):
                self._rewrite(segment, kept)

    def close(self) -> None:
        """Sync and close the file being written."""
        with self._lock:
            self._close_segment()

    def _segment_to_write(self) -> tuple[Segment, AppendFile]:
        if self._open is not None and self._open[0].nbytes >= self._segment_bytes:
            self._close_segment()
        if self._open is None:
            path = segment_path(self.directory, self.next_sequence)
            file = AppendFile(path, self._buffer)
            try:
                file.append(0, [segment_header(self.next_sequence)])
                file.sync()
                sync_folder(self.directory)
            except OSError:
                file.close()
                path.unlink()
                raise
            self._open = Segment(self.next_sequence, path, SEGMENT_HEADER_BYTES, []), file
            self._segments[self.next_sequence] = self._open[0]
        return self._open

    def _close_segment(self) -> None:
        if self._open is not None:
            if self._unsynced:
                self._open[1].sync()
                self._unsynced = False
            self._open[1].close()
            self._open = None

    def _cut(self, segment: Segment) -> None:
        if not segment.records:
            self._remove(segment)
            sync_folder(self.directory)
            return
        with segment.path.open("r+b") as file:
            file.truncate(segment.nbytes)
            os.fsync(file.fileno())

    def _remove(self, segment: Segment) -> None:
        segment.path.unlink()
        del self._segments[segment.first_sequence]

    def _rewrite(self, segment: Segment, kept: list[Record]) -> None:
        parts = [read_bytes(segment.path, record) for record in kept]
        write_file(segment.path, [segment_header(segment.first_sequence), *parts])
        offset, records = SEGMENT_HEADER_BYTES, []
        for record in kept:
            records.append(record._replace(offset=offset))
            offset += record.nbytes
        segment.records, segment.nbytes = records, offset


def _header_of(record: Encoded, sequence: int) -> RecordHeader:
    return RecordHeader(
        record.codec,
        len(record.meta),
        record.body_bytes,
        sequence,
        record.stream_id,
        record.first_step,
        record.num_steps,
        record.body_crc,
    )
