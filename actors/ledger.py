"""A ledger of acknowledgements: what a sender may rely on, written down for an audit.

One line per acknowledged block: stream, first step, steps, and the CRC-32 of all lines so far. A line is handed to the
operating system before the next block is sent, so it outlives the sender's process; where blocks are on the disk when
they are acknowledged, so is the line. A file `LEDGERS` names the ledgers of a folder: one that is gone is missed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from actors.replay.wire.blocks import block_spans

_NAMES = "LEDGERS"


class Ledger:
    """Appends to one file.

    Args:
        path: The file; its folder is made.
        sync: Whether a line is on the disk when `acknowledged` returns.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sync, self._crc = sync, 0
        self._file = path.open("ab", buffering=0)
        self._go_on(path.read_bytes())
        with (path.parent / _NAMES).open("ab", buffering=0) as names:
            names.write(f"{path.name}\n".encode())
            if sync:
                os.fsync(names)

    def acknowledged(self, header: bytes) -> None:
        """Note the blocks of an acknowledged message.

        Raises:
            OSError: The disk is full, say.
        """
        lines = []
        for stream_id, first_step, steps in block_spans(header):
            fields = f"{stream_id} {first_step} {steps}"
            self._crc = zlib.crc32(fields.encode(), self._crc)
            lines.append(f"{fields} {self._crc:08x}\n")
        self._file.write("".join(lines).encode())
        if self._sync:
            os.fsync(self._file)

    def _go_on(self, before: bytes) -> None:
        """Cut a torn last line and go on from the checksum of the last whole one."""
        whole = before[: before.rfind(b"\n") + 1]
        if len(whole) < len(before):
            self._file.truncate(len(whole))
        fields = whole.splitlines()[-1].split() if whole else []
        self._crc = int(fields[3], 16) if len(fields) == 4 else 0


def read_ledgers(directory: Path) -> Iterator[tuple[int, int, int]]:
    """(stream, first step, steps) of every whole line of all ledgers in a folder.

    Lines of earlier versions have no checksum and are taken as they are.

    Raises:
        ValueError: A ledger is gone or damaged; the line names it.
    """
    names = directory / _NAMES
    known = names.read_text(errors="replace").splitlines() if names.is_file() else []
    found = sorted(directory.glob("*.txt"))
    gone = sorted(set(known) - {path.name for path in found})
    if gone:
        raise ValueError(f"{directory}: {', '.join(gone)} is gone; what it acknowledged cannot be audited")
    for path in found:
        crc = 0
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # after the last end: a torn line
            fields = line.split()
            end = fields.pop() if len(fields) == 4 else None
            try:
                stream_id, first_step, steps = map(int, fields)
            except ValueError:
                raise ValueError(f"{path} is damaged at line {number}: {line[:80]!r}") from None
            crc = zlib.crc32(b" ".join(fields), crc)
            if end is not None and end != b"%08x" % crc:
                raise ValueError(f"{path} is damaged at line {number} or before: its checksum is another one")
            yield stream_id, first_step, steps
