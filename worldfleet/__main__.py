"""The `worldfleet` command, also as `python -m worldfleet`."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Entry point of the console script: the current folder is on the path, as it is with `python -m`."""
    _open_streams()
    here = _current_folder()
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        from cluster.cli import main as command
    except ImportError as error:
        sys.stderr.write(f"worldfleet: error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("worldfleet: error: interrupted\n")
        sys.exit(130)
    command()


def _open_streams() -> None:
    """Give closed standard streams /dev/null, before a file takes their number, and print what any encoding can."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        sys.stderr.write("worldfleet: error: the current folder is gone: change to one that exists\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
