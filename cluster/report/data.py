"""What a run has written, read back for its report; missing and damaged parts read as empty."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.reader import read_yaml
from cluster.report.charts import Series


@dataclass(frozen=True)
class Metrics:
    """The lines of metrics.jsonl, and how many could not be read."""

    rows: tuple[Mapping[str, float], ...]
    unreadable: int

    @property
    def names(self) -> list[str]:
        """Every metric that occurs, in order of first occurrence."""
        found = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in found if name not in ("step", "time")]

    def series(self, name: str) -> Series:
        """The metric over environment steps, in lines that state it."""
        rows = [row for row in self.rows if name in row]
        return Series(name, [row["step"] for row in rows], [row[name] for row in rows])

    def last(self, name: str) -> float | None:
        """Its newest value."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)


def read_metrics(path: Path) -> Metrics:
    """Lines of metrics.jsonl that are objects with a numeric step; the others are counted."""
    rows, unreadable = [], 0
    for line in read_text(path).splitlines():
        row = parse_json(line)
        if not isinstance(row, dict) or not is_number(row.get("step")):
            unreadable += 1
            continue
        rows.append({name: float(value) for name, value in row.items() if is_number(value)})
    return Metrics(tuple(rows), unreadable)


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Summaries eval/*.json in the order of their names, numbers within names in numeric order."""
    found = (parse_json(read_text(path)) for path in sorted(folder.glob("*.json"), key=natural))
    return [summary for summary in found if isinstance(summary, dict)]


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Key that sorts names by the numbers in them."""
    pieces = re.split(r"(\d+)", path.name)
    return [(1, int(piece), "") if piece.isdigit() else (0, 0, piece) for piece in pieces]


def read_text(path: Path) -> str:
    """A file's text."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def parse_json(text: str) -> Any:
    """A JSON value, None for what is not one."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML mapping, empty for what is not one."""
    try:
        tree = read_yaml(read_text(path), str(path))
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def is_number(value: object) -> bool:
    """Whether a value is a number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
