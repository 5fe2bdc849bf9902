"""A ledger of acknowledgements: what a sender may rely on, written down for an audit.

One line per acknowledged block: stream, first step, steps. A line is handed to the operating system before the
next block is sent, so it outlives the sender's process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from actors.replay.wire.blocks import block_spans


class Ledger:
    """Appends to one file.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def acknowledged(self, header: bytes) -> None:
        """Note the blocks of an acknowledged message."""
        lines = (f"{stream_id} {first_step} {steps}\n" for stream_id, first_step, steps in block_spans(header))
        self._file.write("".join(lines).encode())


def read_ledgers(directory: Path) -> Iterator[tuple[int, int, int]]:
    """(stream, first step, steps) of every whole line of all ledgers in a folder."""
    for path in sorted(directory.glob("*.txt")):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                stream_id, first_step, steps = map(int, line.split())
                yield stream_id, first_step, steps
