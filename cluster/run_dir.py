"""The directory of a run: what is where, who may write it, and the marks a run leaves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from cluster.config import RunConfig, build_run, to_yaml
from cluster.reader import read_yaml
from envs.registry import remember_spec
from envs.specs import EnvSpec

FORMAT_VERSION = 2
"""Version of the layout below; a directory of another version is refused, never rewritten."""


_SUMMED = "# worldfleet run, resolved configuration; its last line is a checksum, change it with --resume --set"
"""First line of a config.yaml with a checksum; files of earlier versions have another one."""

_SUM = "# crc32 "


@dataclass(frozen=True)
class _KnownSpec:
    """Content of `spec.json`."""

    name: str
    options: dict[str, Any]
    spec: EnvSpec


_SPEC = TypeAdapter(_KnownSpec)


class RunDir:
    """`config.yaml`, `spec.json`, `metrics.jsonl`, `events.jsonl`, `tensorboard/`, `checkpoints/`, `replay/`,
    `ledgers/`, `eval/`, `imagination/`, `fidelity/`,
    `bundles/`.

    One process at a time holds a run directory: a lock is taken on creation and released by `close`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.spec_file = path / "spec.json"  # of the environment with its options, found out by starting it
        self.metrics_file = path / "metrics.jsonl"
        self.events_file = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self.replay = path / "replay"
        self.ledgers = path / "ledgers"
        self.eval = path / "eval"
        self.imagination = path / "imagination"
        self.fidelity = path / "fidelity"
        self.bundles = path / "bundles"  # of updates that were not finite
        self.stop_marker = path / "STOPPED.json"
        self.done_marker = path / "DONE.json"
        self.new = False  # whether this object has created it
        self._made: list[Path] = []  # folders made for it, the innermost first
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDir:
        """Start a new run in `path`, which must be missing or empty.

        Raises:
            ValueError: The directory already holds something.
        """
        run_dir = cls(path)
        if path.exists() and any(path.iterdir()):
            raise ValueError(f"{path} is not empty; continue it with --resume {path}, or choose another --run-dir")
        run_dir._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in (path, run_dir.checkpoints, run_dir.eval):
            folder.mkdir(parents=True, exist_ok=True)
        run_dir.acquire()
        run_dir.new = True
        run_dir.write_config(config)
        return run_dir

    def undo(self) -> None:
        """Remove a run that has just been created and holds nothing yet, with the folders that were made for it."""
        assert self.new
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        for folder in self._made:
            with contextlib.suppress(OSError):  # another one uses it too
                folder.rmdir()

    @classmethod
    def open(cls, path: Path) -> tuple[RunDir, RunConfig]:
        """An existing run and its configuration.

        Raises:
            ValueError: No run there, or one of another format.
        """
        run_dir = cls(path)
        if not run_dir.config_file.is_file():
            raise ValueError(f"{path} is not a run directory: it has no config.yaml")
        try:
            text = run_dir.config_file.read_text(encoding="utf-8")
            tree: Any = read_yaml(text, "its text")
        except ValueError as error:  # of the YAML or of the encoding
            raise ValueError(f"{run_dir.config_file} is damaged: {error}") from error
        version = tree.pop("format", None) if isinstance(tree, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"{run_dir.config_file} has run format {version}, this version reads {FORMAT_VERSION}")
        _check_sum(run_dir.config_file, text)
        run_dir._remember_spec()
        try:
            return run_dir, build_run(tree)
        except ValueError as error:
            raise ValueError(f"{run_dir.config_file}: {error}") from error

    def write_config(self, config: RunConfig) -> None:
        """Store the resolved configuration."""
        text = f"{_SUMMED}\nformat: {FORMAT_VERSION}\n{to_yaml(config)}"
        write_atomic(self.config_file, f"{text}{_SUM}{_sum(text)}\n")

    def write_spec(self, config: RunConfig, spec: EnvSpec) -> None:
        """Store what the environment is, so that nobody has to start it again to know."""
        known = _KnownSpec(config.env.name, config.env.options, spec)
        write_atomic(self.spec_file, json.dumps(asdict(known), indent=1) + "\n")

    def _remember_spec(self) -> None:
        if self.spec_file.is_file():
            try:
                known = _SPEC.validate_python(json.loads(self.spec_file.read_text()))
            except ValueError as error:
                raise ValueError(f"{self.spec_file} is damaged; delete it, and it is found out again") from error
            remember_spec(known.name, known.options, known.spec)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ValueError: Another process is writing this run.
        """
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            self._lock = None
            raise ValueError(f"{self.path} is in use by another run") from error

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def event(self, **fields: Any) -> None:
        """Append one line to events.jsonl (restarts, stops, resumes)."""
        with self.events_file.open("a") as file:
            file.write(json.dumps(fields) + "\n")

    def mark(self, marker: Path, **fields: Any) -> None:
        """Leave `STOPPED.json` or `DONE.json`; a run has at most one of them."""
        self.clear_marks()
        write_atomic(marker, json.dumps(fields) + "\n")

    def clear_marks(self) -> None:
        """Remove the marks of an earlier end."""
        for marker in (self.stop_marker, self.done_marker):
            marker.unlink(missing_ok=True)


class Start:
    """The beginning of a run or of its continuation: what it changes in the directory counts once it makes progress.

    Args:
        run_dir: The directory.
        config: What the run is started with.
    """

    def __init__(self, run_dir: RunDir, config: RunConfig) -> None:
        self._run_dir, self._config, self._confirmed = run_dir, config, False

    def confirm(self) -> None:
        """The run makes progress: its configuration is that of the directory, and earlier ends are no longer true."""
        if self._confirmed:
            return
        self._confirmed = True
        self._run_dir.clear_marks()
        if not self._run_dir.new:
            self._run_dir.write_config(self._config)

    def refused(self, error: Exception) -> None:
        """The run was refused before it made any progress: remove it if it is new, leave it as it was if not."""
        if self._confirmed:
            return
        if self._run_dir.new:
            self._run_dir.undo()
        else:
            self._run_dir.event(event="refused", reason=" ".join(str(error).split()))


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _check_sum(path: Path, text: str) -> None:
    """Refuse a configuration that is not the whole of what was written; those of earlier versions have no checksum.

    Raises:
        ValueError: The checksum is missing or another one.
    """
    body, mark, stated = text.rpartition(_SUM)
    if not mark and not text.startswith(_SUMMED[: _SUMMED.index(";") + 1]):
        return
    if not mark or stated != f"{_sum(body)}\n":
        raise ValueError(
            f"{path} is damaged: it is cut off or was changed by hand, the checksum in its last line is "
            f"{'another one' if mark else 'missing'}; without that line and the first it is taken as it is"
        )


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that readers see the old text or the new, never a part."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place at the end of the block; none is left after an error."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
