"""Processes for simulators start where whoever has bound the names says."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from envs import spawn


def through(function: Callable[..., None], *arguments: int) -> None:
    function(*(argument + 1 for argument in arguments))


@pytest.mark.parametrize(("entries", "code"), [([], 5), ([through], 6)])
def test_a_process_starts_in_the_entry_point(
    entries: list[Callable[..., None]], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "_entry", [])
    for entry in entries:
        spawn.enter_through(entry)
    process = spawn.process(os._exit, 5)
    process.start()
    process.join(60)
    assert process.exitcode == code
