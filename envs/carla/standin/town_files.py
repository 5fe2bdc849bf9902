"""Where the towns that come with the server are kept."""

from __future__ import annotations

from pathlib import Path

TOWN_FILES = Path(__file__).parent / "towns_xodr"


def town_names() -> list[str]:
    """Names of the towns that come with the server."""
    return sorted(path.stem for path in TOWN_FILES.glob("*.xodr"))
