"""A checkpoint while it is written, and when it is."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event


@dataclass(frozen=True)
class CheckpointInfo:
    """A committed checkpoint."""

    name: str
    num_bytes: int  # written for it: log records and manifest
    num_steps: int  # it holds
    seconds: float  # from its begin to its commit


class PendingCheckpoint:
    """A checkpoint that is being written."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = Event()
        self._outcome: CheckpointInfo | OSError | None = None

    def wait(self, timeout: float | None = None) -> CheckpointInfo:
        """The committed checkpoint.

        Raises:
            OSError: It could not be written; earlier ones are as they were.
            TimeoutError: It is not committed after `timeout` seconds.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"checkpoint {self._name!r} is not written after {timeout} seconds")
        if isinstance(self._outcome, OSError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    @property
    def done(self) -> bool:
        """Whether it is committed or has failed."""
        return self._done.is_set()

    def finish(self, outcome: CheckpointInfo | OSError) -> None:
        """Set what `wait` returns or raises."""
        self._outcome = outcome
        self._done.set()
