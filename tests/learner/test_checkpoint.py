"""Checkpoints: what goes in comes out, and whatever goes wrong is named and loses nothing."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner import checkpoint
from learner.checkpoint import CheckpointError

PARTS: dict[str, Any] = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)},
    "rng": np.random.default_rng(0).bit_generator.state,
    "counters": {"steps": 2**62, "name": "run", "rate": 0.5, "on": True, "none": None, "items": [1, (2, b"x")], 3: 4},
    "arrays": {
        "u64": np.array([0, 2**64 - 1], np.uint64),
        "bool": np.array([[True], [False]]),
        "scalar": np.float32(1.5),
        "zero": np.asarray(7, np.int64),
        "strided": np.arange(10)[::-2],
        "empty": np.zeros((0, 3), np.float32),
    },
}


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_round_trip_keeps_types_values_and_shapes(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "new" / "checkpoints", 5, PARTS)
    assert path.name == "step_000000000005"
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["model"]["weight"], PARTS["model"]["weight"])
    assert loaded["model"]["half"].dtype == torch.bfloat16
    assert loaded["rng"] == PARTS["rng"]  # 128-bit integers
    assert loaded["counters"] == PARTS["counters"]
    for name in ("u64", "bool", "zero", "strided", "empty"):
        want, have = PARTS["arrays"][name], loaded["arrays"][name]
        assert (have.dtype, have.shape) == (want.dtype, want.shape), name
        np.testing.assert_array_equal(have, want)
    assert loaded["arrays"]["scalar"] == 1.5
    assert checkpoint.step_of(path) == 5


def test_a_view_stores_itself_only(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 0, {"view": torch.zeros(1_000_000)[:2]})
    assert (path / "view.pt").stat().st_size < 10_000


def test_latest_is_the_highest_step_and_repeats_are_newer(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None
    for step in (9, 100, 20):
        checkpoint.save(tmp_path, step, {"x": step})
    assert checkpoint.latest(tmp_path) == tmp_path / "step_000000000100"
    again = checkpoint.save(tmp_path, 100, {"x": "again"})
    assert checkpoint.latest(tmp_path) == again
    assert checkpoint.load(again) == {"x": "again"}
    assert checkpoint.load(tmp_path / "step_000000000100") == {"x": 100}


def test_only_the_newest_are_kept_and_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "step_000000000001.tmp-77").mkdir()
    (tmp_path / "notes").mkdir()
    for step in range(5):
        checkpoint.save(tmp_path, step, {"x": step}, keep=2)
    assert names(tmp_path) == ["notes", "step_000000000003", "step_000000000004"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def edit_manifest(path: Path, **changes: Any) -> None:
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.pt", flip, "model.pt is corrupt"),
        ("rng.pt", lambda path: os.truncate(path, path.stat().st_size - 1), "rng.pt is truncated"),
        ("arrays.pt", lambda path: os.truncate(path, 0), "arrays.pt is truncated"),
        ("arrays.pt", lambda path: path.write_bytes(path.read_bytes() + b"x"), "arrays.pt is truncated or too long"),
        ("counters.pt", os.remove, "counters.pt is missing"),
        ("manifest.json", os.remove, "no manifest.json"),
        ("manifest.json", lambda path: os.truncate(path, 20), "manifest.json is corrupt"),
        ("manifest.json", lambda path: path.write_bytes(b"\xff\xfe"), "manifest.json is corrupt"),
        ("manifest.json", lambda path: path.write_text("[]"), "manifest.json is corrupt"),
        ("manifest.json", lambda path: edit_manifest(path, files=None), "manifest.json is corrupt"),
        ("manifest.json", lambda path: edit_manifest(path, files={"model.pt": 3}), "manifest.json is corrupt"),
        ("manifest.json", lambda path: edit_manifest(path, files={"../x.pt": {"size": 1, "crc32": 1}}), "corrupt"),
        ("manifest.json", lambda path: edit_manifest(path, format_version=99), "format 99, this version reads 1"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, damage: Any, message: str) -> None:
    path = checkpoint.save(tmp_path, 1, PARTS)
    damage(path / file)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


class FullDisk:
    """A file on a disk that is full after `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._room -= len(memoryview(data))
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.mark.parametrize("room", [0, 100, 5_000])
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    old = checkpoint.save(tmp_path, 1, PARTS)
    real = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *a, **k: FullDisk(real(self, *a, **k), room))
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path, 2, {"big": torch.zeros(5_000)}, keep=1)
    assert names(tmp_path) == [old.name]
    assert checkpoint.load(old)["counters"] == PARTS["counters"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_device_that_is_always_full_raises_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: real(Path("/dev/full"), *a, **k))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, 2, {"big": torch.zeros(100_000)})
    assert names(tmp_path) == []


def test_a_kill_before_the_rename_is_not_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"x": 1})

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, {"x": 2})
    assert names(tmp_path) == ["step_000000000001"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a/b": 1}, "'a/b'"),
        ({"x": {"deep": [object()]}}, r"x\.deep\[0\] holds a object"),
        ({"x": np.array(["text"])}, "array of <U4"),
        ({"x": {(1, 2): 3}}, "keys that cannot be stored"),
        ({"x": {"__numpy__": 3}}, "keys that cannot be stored"),
    ],
)
def test_values_that_cannot_be_stored_are_refused_before_anything_is_written(
    tmp_path: Path, parts: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint.save(tmp_path / "dir", 0, parts)
    assert not (tmp_path / "dir").exists()


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step -1"):
        checkpoint.save(tmp_path, -1, {})
    with pytest.raises(ValueError, match="keep 0"):
        checkpoint.save(tmp_path, 1, {}, keep=0)
