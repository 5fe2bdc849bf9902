"""New processes for simulators, by multiprocessing's spawn.

A new process finds a function by the name of its module. Whoever has bound the names of our packages (`worldfleet`
does) must do so there too before it looks: it hands over the function through which processes are entered.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

CONTEXT = multiprocessing.get_context("spawn")

_entry: list[Callable[..., None]] = []


def enter_through(entry: Callable[..., None]) -> None:
    """Let processes start in `entry(function, *arguments)`, which calls the function; importing it binds the names."""
    _entry[:] = [entry]


def process(function: Callable[..., None], *arguments: Any, daemon: bool | None = None) -> SpawnProcess:
    """A process, to be started, that calls `function(*arguments)`; all of them are picklable."""
    target, *rest = *_entry, function
    return CONTEXT.Process(target=target, args=(*rest, *arguments), daemon=daemon)
