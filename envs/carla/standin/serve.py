"""Running the server as a process."""

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
import time

from envs.carla.standin.faults import read_fault
from envs.carla.standin.layouts import VERSION
from envs.carla.standin.server import Server, ServerOptions
from envs.carla.standin.towns import Town, load_town, read_town

logger = logging.getLogger("carla-standin")

_HUNG_SECONDS = 2.0
"""How long the server may take to end after its parent has gone."""


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Args:
        options: Of options.add_options.

    Raises:
        ValueError: An option makes no sense, or the town is none.
        OSError: The port is taken or a file cannot be read.
    """
    for name, low, high in (("port", 0, 65535), ("seed", 0, 2**63 - 1), ("threads", 1, 1024)):
        if not low <= getattr(options, name) <= high:
            raise ValueError(f"--{name} must be in [{low}, {high}], not {getattr(options, name)}")
    faults = tuple(read_fault(text) for text in options.fault)
    town = read_town(options.xodr) if options.xodr is not None else load_town(options.town)
    if options.host not in ("127.0.0.1", "localhost"):
        logger.warning("--host %s: whoever reaches it may command the server, without a password", options.host)
    logger.info("stand-in server for CARLA %s: results on it are integration results, never CARLA results", VERSION)
    chosen = ServerOptions(options.host, options.port, options.seed, options.threads, options.version, faults)
    return asyncio.run(_serve(town, chosen, options.parent_watch))


async def _serve(town: Town, options: ServerOptions, parent_watch: bool) -> int:
    server = Server(town, options)
    try:
        await server.open()
    except OSError as error:
        server.close()
        raise OSError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from None
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    if parent_watch:
        threading.Thread(target=_watch_parent, args=(loop, ended), daemon=True).start()
    line = {
        "port": server.port,
        "town": town.name,
        "version": options.version,
        "backend": "standin",
        "pid": os.getpid(),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    await ended.wait()
    server.close()
    return 0


def _watch_parent(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """End with the standard input, even where the server hangs."""
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(ended.set)
    time.sleep(_HUNG_SECONDS)
    os._exit(1)
