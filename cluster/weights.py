"""Versioned weights: the learner publishes, actors pull what is newer than what they have."""

from __future__ import annotations

from typing import Generic, TypeVar

W = TypeVar("W")


class WeightStore(Generic[W]):
    """Holds the newest version only.

    Versions are the learner's update counts, so they only grow; an older version arriving late
    (a restarted learner that redoes updates) replaces nothing newer.
    """

    def __init__(self) -> None:
        self._latest: tuple[int, W] | None = None

    @property
    def version(self) -> int:
        """The newest version, -1 before the first."""
        return -1 if self._latest is None else self._latest[0]

    def publish(self, version: int, weights: W) -> bool:
        """Store `weights`; False if a newer version is there already."""
        if version < self.version:
            return False
        self._latest = (version, weights)
        return True

    def latest(self, known_version: int = -1) -> tuple[int, W] | None:
        """The newest (version, weights), or None if it is not newer than `known_version`."""
        return self._latest if self.version > known_version else None
