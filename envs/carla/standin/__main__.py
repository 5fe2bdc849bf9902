"""The server as a program of its own: python -m envs.carla.standin --port 0 --town oval --seed 0."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from envs.carla.standin.options import add_options


class _Parser(argparse.ArgumentParser):
    """Refuses bad input in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; always leaves by SystemExit."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    parser = _Parser(prog="carla-standin", description="A headless server that speaks CARLA's protocol.")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        from envs.carla.standin.serve import run

        code = run(options)
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"carla-standin: error: {' '.join(str(error).split())}\n")
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
