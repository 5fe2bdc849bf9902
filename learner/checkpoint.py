"""Directory checkpoints, committed by rename.

A checkpoint is written to `<name>.tmp-<pid>`, flushed to disk and renamed to `step_<step>`; a directory of that name is
therefore complete. `manifest.json` holds the format version and the size and CRC-32 of every file. A part is a nest of
dicts, lists and tuples of Python scalars, strings, bytes, None, NumPy arrays and torch tensors, stored by `torch.save`
and read back without unpickling code.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d{12})(?:\.(\d+))?")
_PART_NAME = re.compile(r"[A-Za-z0-9_]+")
_ARRAY_TAG = "__numpy__"


_UNREADABLE = (
    RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
    struct.error, OverflowError, MemoryError, ImportError, NotImplementedError,
)  # fmt: skip
"""What torch.load raises for bytes that are none of its own."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file and what is wrong with it."""


def save(directory: Path, step: int, parts: Mapping[str, Any], keep: int | None = None) -> Path:
    """Write a checkpoint and commit it.

    Args:
        directory: Folder of the run's checkpoints, created if absent; one process writes to it.
        step: Step the checkpoint stands for. Saving a step again makes a newer checkpoint of that step.
        parts: Name -> nest of values; each part becomes one file.
        keep: Number of newest checkpoints to keep, None for all.

    Returns:
        The committed directory.

    Raises:
        ValueError: If a part has a name or a value that cannot be stored.
        OSError: If the disk is full or not writable; earlier checkpoints are as they were.
    """
    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(f"step must not be negative and keep at least 1, got step {step} and keep {keep}")
    encoded = {name: _encode(value, _part_name(name)) for name, value in parts.items()}
    directory.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(directory)
    final = directory / next_name(directory, step)
    temporary = directory / f"{final.name}.tmp-{os.getpid()}"
    try:
        temporary.mkdir()
        files = {f"{name}.pt": _write_part(temporary / f"{name}.pt", value) for name, value in encoded.items()}
        _write_manifest(temporary / _MANIFEST, step, files)
        _sync_directory(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(directory)
    if keep is not None:
        _retain(directory, keep)
    return final


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint after checking every file against the manifest.

    Args:
        path: A directory that `save` or `latest` returned.

    Returns:
        Name -> part, with arrays and tensors on the CPU.

    Raises:
        CheckpointError: If a file is missing, truncated or corrupt, or the format is of another version.
    """
    files = _read_manifest(path)["files"]
    return {name.removesuffix(".pt"): _read_part(path / name, record) for name, record in files.items()}


def save_part(path: Path, value: Any) -> None:
    """Write one part as a file of its own.

    Raises:
        ValueError: If it holds a value that cannot be stored.
        OSError: If the disk is full or not writable.
    """
    _write_part(path, _encode(value, path.stem))


def load_part(path: Path) -> Any:
    """What `save_part` wrote, with arrays and tensors on the CPU.

    Raises:
        CheckpointError: The file is damaged, or holds more than values.
    """
    with restoring(path):
        return _decode(load_tensors(path))


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU and without unpickling code.

    Raises:
        CheckpointError: The file is damaged, or holds more than values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read as stored values: {reason[:200]}") from error


@contextmanager
def restoring(source: object) -> Iterator[None]:
    """What fails inside, fails because `source` has not the values that are read from it.

    Raises:
        CheckpointError: In place of what was raised; it names the source and the value.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{source} has not the values that this version reads: {reason[:300]}") from error


def save_tensors(path: Path, value: Any) -> None:
    """Write tensors as `torch.save` does; the old file stays until the new one is whole.

    Raises:
        OSError: If the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write_part(temporary, value)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def step_of(path: Path) -> int:
    """The step a checkpoint stands for.

    Raises:
        CheckpointError: Like `load`.
    """
    return int(_read_manifest(path)["step"])


def latest(directory: Path) -> Path | None:
    """The newest committed checkpoint in `directory`, None if there is none."""
    found = _committed(directory)
    return found[-1] if found else None


def names(directory: Path) -> list[str]:
    """Names of the committed checkpoints in `directory`, oldest first."""
    return [path.name for path in _committed(directory)]


def next_name(directory: Path, step: int) -> str:
    """The name under which `save` commits the next checkpoint of `step`."""
    serials = [serial for known, serial in map(_order, _committed(directory)) if known == step]
    return f"step_{step:012d}" + (f".{max(serials) + 1}" if serials else "")


def _committed(directory: Path) -> list[Path]:
    """Committed checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    return sorted((entry for entry in directory.iterdir() if _NAME.fullmatch(entry.name)), key=_order)


def _order(path: Path) -> tuple[int, int]:
    """(step, serial) of a committed name; the serial counts repeated saves of the step."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _remove_unfinished(directory: Path) -> None:
    """Remove the unfinished files of killed processes."""
    for entry in directory.glob("step_*.tmp-*"):
        logger.info("removing the unfinished checkpoint %s", entry.name)
        shutil.rmtree(entry, ignore_errors=True)


def _retain(directory: Path, keep: int) -> None:
    for entry in _committed(directory)[:-keep]:
        # Renamed first: a removal that is interrupted must not leave a checkpoint that looks complete.
        doomed = entry.with_name(f"{entry.name}.tmp-old")
        entry.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


class _ChecksumWriter:
    """A binary file that counts and sums what passes, and remembers the error of a failed write.

    torch.save replaces an OSError of the file by a RuntimeError of its own.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.crc = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        view = memoryview(data)
        self.size += view.nbytes
        self.crc = zlib.crc32(view, self.crc)
        return view.nbytes

    def flush(self) -> None:
        self._file.flush()


def _write_part(path: Path, value: Any) -> dict[str, int]:
    with path.open("wb") as file:
        writer = _ChecksumWriter(file)
        try:
            torch.save(value, cast(IO[bytes], writer))
        except RuntimeError as error:
            raise (writer.error or error) from None
        file.flush()
        os.fsync(file.fileno())
    return {"size": writer.size, "crc32": writer.crc}


def _write_manifest(path: Path, step: int, files: Mapping[str, Mapping[str, int]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump({"format_version": FORMAT_VERSION, "step": step, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / _MANIFEST
    try:
        manifest: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a checkpoint: it has no {_MANIFEST}") from None
    except (ValueError, RecursionError) as error:  # of the JSON, of its numbers or of the encoding
        raise CheckpointError(f"{file} is corrupt: {error}") from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version is None:
        raise CheckpointError(f"{file} is corrupt: it names no format version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has checkpoint format {version}, this version reads {FORMAT_VERSION}")
    files = manifest.get("files")
    if not isinstance(manifest.get("step"), int) or not isinstance(files, dict) or not all(map(_valid, files.items())):
        raise CheckpointError(f"{file} is corrupt: its step or its list of files is not valid")
    return {"step": manifest["step"], "files": files}


def _valid(item: tuple[str, Any]) -> bool:
    """Whether an entry of the manifest names a file of the checkpoint, its size and its checksum."""
    name, record = item
    numbers = record if isinstance(record, dict) else {}
    named = name.endswith(".pt") and _PART_NAME.fullmatch(name.removesuffix(".pt")) is not None
    return named and all(isinstance(numbers.get(key), int) for key in ("size", "crc32"))


def _read_part(path: Path, record: Mapping[str, int]) -> Any:
    try:
        size, crc = _checksum(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    if size != record["size"]:
        raise CheckpointError(f"{path} is truncated or too long: {size} bytes instead of {record['size']}")
    if crc != record["crc32"]:
        raise CheckpointError(f"{path} is corrupt: its checksum differs from the manifest")
    with restoring(path):
        return _decode(load_tensors(path))


def _checksum(path: Path) -> tuple[int, int]:
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _part_name(name: str) -> str:
    if not _PART_NAME.fullmatch(name):
        raise ValueError(f"a part's name is letters, digits and underscores, got {name!r}")
    return name


def _encode(value: Any, where: str) -> Any:
    """`value` with arrays as tagged tensors and NumPy scalars as Python scalars; tensors are moved to the CPU."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # a clone: a view would store the whole of what it looks into
    if isinstance(value, np.generic):
        return _encode(value.item(), where)
    if isinstance(value, np.ndarray):
        return {_ARRAY_TAG: _tensor_of(value, where)}
    if isinstance(value, Mapping):
        if _ARRAY_TAG in value or not all(isinstance(key, str | int) for key in value):
            raise ValueError(f"{where} has keys that cannot be stored: {list(value)}")
        return {key: _encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_encode(item, f"{where}[{index}]") for index, item in enumerate(value)])
    raise ValueError(f"{where} holds a {type(value).__name__}, which a checkpoint cannot store")


def _tensor_of(array: NDArray[Any], where: str) -> torch.Tensor:
    try:
        return torch.from_numpy(np.array(array, order="C", copy=True))
    except TypeError:
        raise ValueError(f"{where} is an array of {array.dtype}, which a checkpoint cannot store") from None


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY_TAG}:
            return value[_ARRAY_TAG].numpy()
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_decode(item) for item in value])
    return value
