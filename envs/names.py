"""Error text for names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """One line that names the mistake, the nearest valid name and all valid names.

    Args:
        kind: What the name stands for, e.g. "environment".
        name: The name that was given.
        valid: Every name that would have been accepted.
    """
    names = sorted(valid)
    return f"unknown {kind} {name!r}{nearest(name, names)} (valid: {', '.join(names)})"


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing where no name is near."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
