"""The glossary of metrics as patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

GLOSSARY = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def unexplained(names: Iterable[str]) -> set[str]:
    """Those of some names of metrics that docs/metrics.md does not explain."""
    entries = re.findall(r"^\| `([^`]+)` \|", GLOSSARY.read_text(), re.MULTILINE)
    parts = [re.split(r"<\w+>", entry) for entry in entries]
    explained = re.compile("|".join(r"[\w.%-]+(?:/[\w.%-]+)*".join(map(re.escape, part)) for part in parts))
    return {name for name in names if not explained.fullmatch(name)}
