"""Metrics of a run: aggregation of what the parts report, and the sinks they are written to."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.writer import SummaryWriter

logger = logging.getLogger(__name__)

INCIDENTAL_PREFIXES = ("time", "timing/", "replay/log_bytes", "replay/unlogged_steps")
"""Time and disk: fields that may differ between two runs of the same seed; all others of `cluster.local` may not."""


class Metrics:
    """Gathers values by name and writes their means, one line an interval.

    Args:
        path: metrics.jsonl; lines after `resumed` are cut off, so a resumed run repeats none.
        resumed: Environment step and updates of the checkpoint continued from, None for a new run.
        prometheus_port: Serve the newest values on 127.0.0.1 at this port, 0 for no endpoint.
        gathered: What `gathered` said when the checkpoint was made.

    Raises:
        ValueError: The port is taken.
    """

    def __init__(
        self,
        path: Path,
        resumed: tuple[int, int] | None = None,
        prometheus_port: int = 0,
        gathered: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        lines = _lines_until(path, *resumed) if resumed is not None and path.exists() else []
        path.write_text("".join(lines))
        self._elapsed = json.loads(lines[-1])["time"] if lines else 0.0
        self._file = path.open("a")
        self._folder, self._resumed = path.parent / "tensorboard", resumed
        self._board = SummaryWriter(log_dir=str(self._folder), purge_step=resumed and resumed[0])
        self._fit_board: SummaryWriter | None = None
        self._start = time.monotonic()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        for name, (total, count) in (gathered or {}).items():
            self._sums[name], self._counts[name] = total, int(count)
        self._last: dict[str, float] = {}
        self._gauge: Gauge | None = None
        if prometheus_port:
            registry = CollectorRegistry()
            self._gauge = Gauge("worldfleet_metric", "Newest value of a metric of the run", ["name"], registry=registry)
            try:
                start_http_server(prometheus_port, addr="127.0.0.1", registry=registry)
            except OSError as error:
                raise ValueError(
                    f"cluster.metrics_port {prometheus_port} cannot be served: {error.strerror}"
                ) from error

    @property
    def elapsed(self) -> float:
        """Seconds of wall clock of the whole run, earlier parts of a resumed run included."""
        return float(self._elapsed + time.monotonic() - self._start)

    @property
    def last(self) -> Mapping[str, float]:
        """The values of the last line written."""
        return self._last

    def gathered(self) -> dict[str, list[float]]:
        """[sum, count] of every value gathered since the last line."""
        return {name: [total, self._counts[name]] for name, total in self._sums.items()}

    def add(self, values: Mapping[str, float | tuple[float, int]], prefix: str = "") -> None:
        """Gather values, each one or the sum of some and their number; the mean over the interval is written.

        NaN is kept out and counted.
        """
        for name, value in values.items():
            total, count = value if isinstance(value, tuple) else (value, 1)
            if math.isnan(total):
                self._sums[f"nan/{prefix}{name}"] += float(count)
                self._counts[f"nan/{prefix}{name}"] = 1
                continue
            self._sums[prefix + name] += total
            self._counts[prefix + name] += count

    def write(self, step: int, values: Mapping[str, float], fitted: int | None = None) -> dict[str, float]:
        """Write one line: the means gathered since the last one and `values` as they are.

        What is not finite is null in the file and counted as `nan/<name>`.

        Args:
            step: Environment step.
            values: Metrics by name.
            fitted: Updates so far, while the run only trains: TensorBoard has such lines over updates, as a run `fit`.
        """
        means = {name: self._sums[name] / self._counts[name] for name in sorted(self._sums)}
        named = {**means, **values}
        line = {"step": step, "time": round(self.elapsed, 3)}
        line |= {name: value for name, value in named.items() if math.isfinite(value)}
        lost = {name: None for name in named if name not in line}  # JSON has neither NaN nor infinity
        line |= {f"nan/{name}": 1.0 for name in lost}
        self._sums.clear()
        self._counts.clear()
        self._file.write(json.dumps({**line, **lost}, allow_nan=False) + "\n")
        self._file.flush()
        board, position = (self._board, step) if fitted is None else (self._board_of_fits(), fitted)
        for name, value in line.items():
            if name != "step":
                board.add_scalar(name, value, position)
            if self._gauge is not None:
                self._gauge.labels(name=name).set(value)
        self._last = line
        return line

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._board.close()
        if self._fit_board is not None:
            self._fit_board.close()

    def _board_of_fits(self) -> SummaryWriter:
        if self._fit_board is None:
            purge = None if self._resumed is None else self._resumed[1]
            self._fit_board = SummaryWriter(log_dir=str(self._folder / "fit"), purge_step=purge)
        return self._fit_board


def write_pictures(run_dir: Path, step: int, pictures: Mapping[str, bytes]) -> None:
    """Show PNG and GIF files in the TensorBoard of a run, GIFs as they move.

    They are written beside the metrics, so a run that is going on is not disturbed.

    Args:
        run_dir: The run.
        step: Environment step of the pictures.
        pictures: Name -> content of the file.
    """
    if not pictures:
        return
    with SummaryWriter(log_dir=str(run_dir / "tensorboard" / "pictures")) as board:
        assert board.file_writer is not None
        for name, content in pictures.items():
            width, height = Image.open(io.BytesIO(content)).size
            image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
            board.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


def _lines_until(path: Path, step: int, updates: int) -> list[str]:
    """The lines of a metrics file up to `step` and, at that step, `updates`.

    A torn last line is dropped; other lines that are none of ours go to a file `metrics.unreadable.jsonl` beside it.
    """
    kept: list[str] = []
    unreadable: dict[int, str] = {}
    for number, line in enumerate(path.read_bytes().decode(errors="replace").split("\n")[:-1], 1):
        values = _parse(line)
        if values is None:
            unreadable[number] = line
        elif (values["step"], values.get("learner/updates") or 0) > (step, updates):
            break
        else:
            kept.append(line + "\n")
    if unreadable:
        aside = path.with_suffix(".unreadable.jsonl")
        with aside.open("a") as file:
            file.writelines(f"{line}\n" for line in unreadable.values())
        logger.warning(
            "%s: line %s cannot be read and is moved to %s", path, ", ".join(map(str, unreadable)), aside.name
        )
    return kept


def _parse(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl, None if it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not all(_is_number(values.get(name)) for name in ("step", "time")):
        return None
    return values if _is_number(values.get("learner/updates") or 0) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def without_incidentals(lines: Iterable[str]) -> list[dict[str, float]]:
    """Parsed lines of metrics.jsonl without the fields that time and disk decide."""
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(INCIDENTAL_PREFIXES)}
        for line in lines
    ]
