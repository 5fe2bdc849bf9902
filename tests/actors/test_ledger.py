"""Ledgers: whole lines come back, damage and what is gone are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.ledger import Ledger, read_ledgers
from actors.replay.wire.blocks import encode_blocks
from tests.fakes import counter_blocks

HEADER = encode_blocks(counter_blocks(7, 2, 64))[0]


def written(folder: Path) -> Path:
    path = folder / "rollout-0.1.txt"
    ledger = Ledger(path)
    ledger.acknowledged(HEADER)
    ledger.acknowledged(HEADER)
    return path


def test_what_is_acknowledged_comes_back_also_from_a_ledger_that_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path)
    Ledger(path).acknowledged(HEADER)
    assert list(read_ledgers(tmp_path)) == [(7, 0, 64), (7, 64, 64)] * 3


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    assert len(list(read_ledgers(tmp_path))) == 3


def test_a_ledger_goes_on_after_a_torn_last_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    Ledger(path).acknowledged(HEADER)
    assert list(read_ledgers(tmp_path)) == [(7, 0, 64), (7, 64, 64), (7, 0, 64), (7, 0, 64), (7, 64, 64)]


def test_a_ledger_without_checksums_is_read(tmp_path: Path) -> None:
    (tmp_path / "rollout-0.1.txt").write_text("7 0 64\n7 64 64\n7 1")
    assert list(read_ledgers(tmp_path)) == [(7, 0, 64), (7, 64, 64)]


def test_a_ledger_that_is_gone_is_named(tmp_path: Path) -> None:
    written(tmp_path).unlink()
    with pytest.raises(ValueError, match=r"rollout-0\.1\.txt is gone"):
        list(read_ledgers(tmp_path))


@pytest.mark.parametrize("how", ["changed", "line gone", "no numbers"])
def test_a_damaged_ledger_is_named(tmp_path: Path, how: str) -> None:
    path = written(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    changed = {"changed": lines[1].replace("64", "65", 1), "line gone": "", "no numbers": "x y z\n"}[how]
    path.write_text(lines[0] + changed + "".join(lines[2:]))
    with pytest.raises(ValueError, match=r"rollout-0\.1\.txt is damaged at line 2"):
        list(read_ledgers(tmp_path))


def test_under_sync_a_line_is_on_the_disk_when_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(1))
    Ledger(tmp_path / "a.txt").acknowledged(HEADER)
    assert not synced
    Ledger(tmp_path / "b.txt", sync=True).acknowledged(HEADER)
    assert len(synced) == 2  # of the names and of the line
