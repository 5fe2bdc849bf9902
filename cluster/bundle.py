"""Bundles of updates that were not finite: how a learner writes them, and how one is run again.

    bundles/update_<n>/about.json     what was not finite, and in what run
                       config.yaml    the run's configuration, as a run directory has it
                       spec.json      its environment, so that none has to be started
                       state.pt       the learner before the update: weights, optimisers, counters, random states
                       batch_<r>.npz  the share of rank r

No file holds pickled code. Ranks write into one folder, which rank 0 commits by renaming it; N ranks of B / N
sequences take the update of one rank with B, and so it is run again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster import build
from cluster.config import RunConfig
from cluster.run_dir import RunDir, write_atomic
from learner import checkpoint
from learner.algorithms.base import UpdateResult, nonfinite
from learner.batch import SequenceBatch
from learner.collective import current
from learner.first_nonfinite import find_births, modules_of, nonfinite_tensors
from learner.nonfinite import MOST_BUNDLES, SkippedUpdate, bad_entries

logger = logging.getLogger(__name__)

MOST_BYTES = 4 << 30
"""Size of a learner's state above which a bundle leaves out its optimisers."""

FORMAT_VERSION = 1
_ABOUT, _STATE, _DATA = "about.json", "state.pt", "data/"


class Bundles:
    """The bundles of a run, called by the learner of every rank; the newest `MOST_BUNDLES` stay.

    Args:
        config: The run.
        directory: Their folder.
    """

    def __init__(self, config: RunConfig, directory: Path) -> None:
        self._config, self._directory = config, directory

    def __call__(self, skipped: SkippedUpdate) -> Path | None:
        """Write this rank's part of a bundle; its folder, None if that failed."""
        collective = current()
        final = self._directory / f"update_{skipped.update:012d}"
        temporary = final.with_name(f".{final.name}.tmp")
        written = 1.0
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            np.savez(temporary / f"batch_{collective.rank}.npz", **_arrays(skipped.batch))  # type: ignore[arg-type]
            if collective.rank == 0:
                self._write(temporary, skipped, collective.world_size)
        except (OSError, ValueError) as error:
            logger.warning("the bundle %s is not complete: %s", final, error)
            written = 0.0
        device = torch.device("cuda" if torch.cuda.is_available() and self._config.learner.device != "cpu" else "cpu")
        if not bool(collective.gather(torch.full((1,), written, device=device)).all()):
            shutil.rmtree(temporary, ignore_errors=True)
            return None
        if collective.rank == 0:
            shutil.rmtree(final, ignore_errors=True)  # of the same update, before the learner started again
            temporary.rename(final)
            self._retain()
        return final

    def _write(self, folder: Path, skipped: SkippedUpdate, ranks: int) -> None:
        state = skipped.state()
        whole = _bytes(state) <= MOST_BYTES
        if not whole:
            state["algorithm"] = {k: v for k, v in state["algorithm"].items() if not k.startswith("optimizer")}
        checkpoint.save_part(folder / _STATE, state)
        run_dir = RunDir(folder)
        run_dir.write_config(self._config)
        run_dir.write_spec(self._config, build.env_spec(self._config))
        about = {
            "format": FORMAT_VERSION,
            "algorithm": self._config.algorithm.name,
            "update": skipped.update,
            "part": skipped.part,
            "ranks": ranks,
            "values": {name: str(value) for name, value in skipped.values.items()},
            "optimizers": whole,
            "torch": torch.__version__,
        }
        write_atomic(folder / _ABOUT, json.dumps(about, indent=1) + "\n")

    def _retain(self) -> None:
        """Remove the oldest above the limit, and what killed processes left."""
        for path in self._directory.glob(".update_*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        for path in sorted(self._directory.glob("update_*"), key=lambda path: path.stat().st_mtime)[:-MOST_BUNDLES]:
            shutil.rmtree(path, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What an update that was not finite does when it is run again."""

    bundle: str
    algorithm: str
    update: int
    recorded: dict[str, str]  # what was not finite -> its value
    values: dict[str, str]  # what is not finite now
    finite: bool  # whether the update is finite now
    metrics: dict[str, float]  # of an update that is finite now
    batch: list[str]  # values of the batch that are not finite, a line each
    state: list[str]  # tensors of the learner that are not finite
    births: list[str]  # operations whose inputs are finite and whose output is not, the first one first
    anomaly: str  # what torch's anomaly detection said
    notes: list[str]  # how this differs from the run

    @property
    def verdict(self) -> str:
        """The first bad tensor in a sentence."""
        if self.finite:
            loss, norm = (self.metrics.get(name, float("nan")) for name in ("loss", "gradient_norm"))
            return f"the update is finite again: loss {loss:.6g}, norm of the gradients {norm:.6g}"
        if self.batch:
            return f"the batch is not finite: {self.batch[0]}"
        if self.state:
            return f"the learner was not finite before the update: {self.state[0]}"
        if self.births:
            return f"born in the update: {self.births[0]}"
        return f"not finite, and no operation of torch made it so: {', '.join(self.values)}"

    def text(self) -> str:
        """For people."""
        lines = [f"{self.bundle}: update {self.update} of {self.algorithm}", f"  {self.verdict}"]
        named = {
            "recorded": [f"{name} {value}" for name, value in self.recorded.items()],
            "now": [f"{name} {value}" for name, value in self.values.items()],
            "batch": self.batch,
            "state": self.state,
            "operations": self.births,
            "anomaly detection": [self.anomaly] if self.anomaly else [],
            "note": self.notes,
        }
        return "\n".join(lines + [f"  {name}: {line}" for name, found in named.items() for line in found]) + "\n"


def replay_update(path: Path, most: int = 5) -> Replayed:
    """Run the update of a bundle again, in this process, with anomaly detection.

    Args:
        path: The bundle.
        most: Lines of each kind of finding.

    Raises:
        ValueError: There is no bundle, or it is damaged or of another version.
    """
    about = _about(path)
    _, config = RunDir.open(path)
    try:
        batch = _joined([_batch(path / f"batch_{rank}.npz") for rank in range(about["ranks"])])
        saved = checkpoint.load_part(path / _STATE)
    except (OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    algorithm = build.algorithm(_here(config))
    notes: list[str] = []
    fresh = algorithm.state_dict()
    if not about["optimizers"]:
        notes.append("the bundle has no state of the optimisers, which an update does not need until it steps")
    if "generator" in fresh and fresh["generator"].shape != saved["algorithm"]["generator"].shape:
        notes.append("the random numbers differ: the run had another kind of device")

    def update() -> UpdateResult:
        algorithm.load_state_dict(fresh | saved["algorithm"])
        torch.set_rng_state(saved["torch_rng"])
        return algorithm.update(batch, about["part"])

    metrics = update().metrics
    bad = {name: str(metrics[name]) for name in nonfinite(metrics)}
    births, anomaly = find_births(update, modules_of(algorithm)) if bad else ([], "")
    return Replayed(
        str(path),
        about["algorithm"],
        about["update"],
        about["values"],
        bad,
        not bad,
        {} if bad else metrics,
        bad_entries(batch, most),
        list(nonfinite_tensors(saved["algorithm"]))[:most],
        [str(birth) for birth in births[:most]],
        anomaly,
        notes,
    )


def _here(config: RunConfig) -> RunConfig:
    """The run on whatever device there is, without compiling: operations are then seen one by one."""
    learner = dataclasses.replace(config.learner, device="auto")
    algorithm: Any = config.algorithm
    if getattr(algorithm, "compile", False):
        algorithm = dataclasses.replace(algorithm, compile=False)
    return dataclasses.replace(config, learner=learner, algorithm=algorithm)


def _about(path: Path) -> dict[str, Any]:
    try:
        about: Any = json.loads((path / _ABOUT).read_text())
    except OSError as error:
        raise ValueError(f"{path} is not a bundle of an update: it has no {_ABOUT}") from error
    except ValueError as error:
        raise ValueError(f"{path / _ABOUT} is damaged: {error}") from error
    version = about.get("format") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has bundle format {version}, this version reads {FORMAT_VERSION}")
    return dict(about)


def _fields() -> Iterator[str]:
    """Fields of a batch besides its data."""
    return (field.name for field in dataclasses.fields(SequenceBatch) if field.name != "data")


def _arrays(batch: SequenceBatch) -> dict[str, NDArray[Any]]:
    arrays = {f"{_DATA}{key}": np.asarray(values) for key, values in batch.data.items()}
    return arrays | {name: getattr(batch, name) for name in _fields()}


def _batch(path: Path) -> SequenceBatch:
    with np.load(path, allow_pickle=False) as arrays:
        data = {key.removeprefix(_DATA): arrays[key] for key in arrays.files if key.startswith(_DATA)}
        return SequenceBatch(data, **{name: arrays[name] for name in _fields()})


def _joined(parts: list[SequenceBatch]) -> SequenceBatch:
    """The shares of all ranks as one batch."""
    data = {key: np.concatenate([part.data[key] for part in parts]) for key in parts[0].data}
    return SequenceBatch(data, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _fields()})


def _bytes(state: Any) -> int:
    """Size of the tensors and arrays of a nest."""
    if isinstance(state, dict):
        return sum(map(_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_bytes, state))
    return int(getattr(state, "nbytes", 0))
