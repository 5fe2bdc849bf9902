"""The `worldfleet` command, also as `python -m worldfleet`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the console script: the current folder is on the path, as it is with `python -m`."""
    here = os.getcwd()
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        from cluster.cli import main as command
    except ImportError as error:
        sys.stderr.write(f"worldfleet: error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
