"""What simulators and libraries print goes to stderr with its origin: stdout carries results alone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def printed_apart() -> Iterator[None]:
    """Inside, what is printed goes to stderr: of Python a line with the module it comes from, of libraries in C and of
    child processes as it is."""
    before = sys.stdout
    number = _number(before)
    sys.stdout = _Origins()
    saved = None
    if number is not None:
        before.flush()
        saved = os.dup(number)
        os.dup2(2, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = before
        if saved is not None and number is not None:
            os.dup2(saved, number)
            os.close(saved)


def _number(stream: object) -> int | None:
    """The descriptor of the standard output, if the stream writes to it."""
    try:
        return 1 if stream.fileno() == 1 else None  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return None


class _Origins(io.TextIOWrapper):
    """Writes whole lines to stderr, each behind the name of the module that began it; bytes go there as they are."""

    def __init__(self) -> None:
        super().__init__(io.BufferedWriter(io.FileIO(os.dup(2), "w")), "utf-8", "replace")
        self._line, self._origin = "", ""

    def write(self, text: str) -> int:
        if not self._line:
            self._origin = _printer(sys._getframe(1))
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def flush(self) -> None:
        if self._line:
            self._say(self._line)
            self._line = ""
        sys.stderr.flush()

    def _say(self, line: str) -> None:
        told = self._origin.partition(".")[0] == "ray"  # what actors print comes with their name and process
        sys.stderr.write(f"{line}\n" if told else f"{self._origin} prints: {line}\n")


def _printer(frame: FrameType) -> str:
    """The module that prints; Ray puts a function of its own in place of `print`, once progress bars are about."""
    name = str(frame.f_globals.get("__name__", "?"))
    return _printer(frame.f_back) if name == "ray.experimental.tqdm_ray" and frame.f_back is not None else name
