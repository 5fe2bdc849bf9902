"""Options of the server's command; reading them needs no CARLA."""

from __future__ import annotations

import argparse
from pathlib import Path

from envs.carla.standin.faults import HELP
from envs.carla.standin.layouts import VERSION
from envs.carla.standin.town_files import town_names


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to the parser of a command."""
    parser.add_argument("--port", type=int, default=2000, help="port of the calls, 0 for a free one (default: 2000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--town", default="oval", help=f"{', '.join(town_names())} (default: oval)")
    parser.add_argument("--xodr", type=Path, metavar="FILE", help="a town of your own, as OpenDRIVE, instead of --town")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="that cast rays for a camera or lidar (default: 1)")
    parser.add_argument("--parent-watch", action="store_true", help="end when the standard input closes")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND@...", help=HELP)
    parser.add_argument("--version", default=VERSION, help=f"version that the server claims to be (default: {VERSION})")
