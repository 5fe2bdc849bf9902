"""The command of the server: python -m envs.carla.standin --port 0 --town oval --seed 0."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from envs.carla.standin.layouts import VERSION
from envs.carla.standin.server import Server, ServerOptions
from envs.carla.standin.towns import Town, load_town, read_town, town_names

logger = logging.getLogger("carla-standin")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--port", type=_port, default=2000, help="port of the calls, 0 for a free one (default: 2000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--town", default="oval", help=f"{', '.join(town_names())} (default: oval)")
    parser.add_argument("--xodr", type=Path, metavar="FILE", help="a town of your own, as OpenDRIVE, instead of --town")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser.add_argument("--parent-watch", action="store_true", help="end when the standard input closes")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes; ValueError or OSError where it cannot begin."""
    if options.seed < 0:
        raise ValueError(f"--seed must be at least 0, not {options.seed}")
    town = read_town(options.xodr) if options.xodr is not None else load_town(options.town)
    if options.host not in ("127.0.0.1", "localhost"):
        logger.warning(
            "--host %s: whoever reaches this address may command the server, without a password", options.host
        )
    logger.info("stand-in server for CARLA %s: results on it are integration results, never CARLA results", VERSION)
    return asyncio.run(_serve(town, options))


async def _serve(town: Town, options: argparse.Namespace) -> int:
    server = Server(town, ServerOptions(options.host, options.port, options.seed))
    try:
        await server.open()
    except OSError as error:
        server.close()
        raise OSError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from None
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if options.parent_watch:
        threading.Thread(target=_watch_stdin, args=(loop, ended), daemon=True).start()
    line = {"port": server.port, "town": town.name, "version": VERSION, "backend": "standin", "pid": os.getpid()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    await ended.wait()
    server.close()
    return 0


def _watch_stdin(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(ended.set)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"a port is in [0, 65535], not {port}")
    return port


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; always leaves by SystemExit."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    parser = _Parser(prog="carla-standin", description="A headless server that speaks CARLA's protocol.")
    add_options(parser)
    try:
        code = run(parser.parse_args(arguments))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"carla-standin: error: {' '.join(str(error).split())}\n")
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
