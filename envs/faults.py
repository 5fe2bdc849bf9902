"""Simulators that fail: what is noted of it, and how often it may happen.

A vector environment never raises for a failure of a simulator. It closes that one environment, makes it again with a
seed of its own, and notes a `Fault`; whoever steps it asks for them (`take_faults`). What an environment returns
against its spec is no fault but a broken contract, see `envs.contract`.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

FaultKind = Literal["exception", "death", "timeout", "nonfinite", "reward"]
"""An exception in reset or step, a worker process that died or did not answer, NaN or infinity in an observation or
metric, a reward that is no finite number."""

STEP_TIMEOUT_SECONDS = 60.0
"""How long one reset or step may take."""
REMAKE_WAITS = (0.0, 0.1, 1.0, 5.0)
"""Seconds before each try to make an environment again, in one call."""
BUDGET_STEPS = 10_000
"""Environment steps over which the faults of a rollout actor are counted against its budget."""

_TEXT_LENGTH = 300
_TRACEBACK_LENGTH = 8000


class SimulatorError(RuntimeError):
    """An environment fails however often it is made again; the text names it and the last fault."""


class FaultsSpent(RuntimeError):
    """Simulators fail more often than `env.fault_budget` allows."""


class StepFault(ValueError):
    """A number that an environment returned is none: kind `nonfinite` or `reward`."""

    def __init__(self, kind: FaultKind, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Fault:
    """One failure of a simulator. The step that it happened in is not part of any stream."""

    env: int  # row in its vector environment; of a worker process, the row that it was at, or its first one
    kind: FaultKind
    where: Literal["reset", "step"]
    seed: int  # that this instance was reset with at first
    episode: int  # episodes of the instance before this one
    step: int  # of the episode, the failing one, counted from 1; 0 in a reset
    text: str  # one line
    traceback: str = ""  # "" where there is none

    def describe(self) -> str:
        """One line for people."""
        place = f"step {self.step} of episode {self.episode}" if self.where == "step" else f"reset {self.episode}"
        return f"environment {self.env} failed ({self.kind}) in {place} after seed {self.seed}: {self.text}"


def note(env: int, seed: int, episode: int, step: int, error: BaseException) -> Fault:
    """The fault that an exception of an environment is."""
    kind: FaultKind = "exception"
    trace = ""
    if isinstance(error, StepFault):
        kind = error.kind
    else:
        trace = "".join(traceback.format_exception(error))[-_TRACEBACK_LENGTH:]
    return Fault(env, kind, "step" if step > 0 else "reset", seed, episode, step, one_line(error), trace)


def one_line(error: BaseException) -> str:
    """Type and text of an exception on one line."""
    text = " ".join(str(error).split())
    if not isinstance(error, StepFault):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _TEXT_LENGTH else f"{text[: _TEXT_LENGTH - 3]}..."


def instance_seed(root: int, remakes: int) -> int:
    """The seed, in [0, 2^31), of an environment that was made again `remakes` times after a reset with seed `root`."""
    if remakes == 0:
        return root
    entropy = [root & 0xFFFFFFFFFFFFFFFF, remakes]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(33))


class FaultBudget:
    """Counts the faults of one rollout actor over its last `BUDGET_STEPS` steps.

    Args:
        limit: Faults allowed in them, 0 for none at all.
        state: What `state_dict` said, None to start.
    """

    def __init__(self, limit: int, state: Mapping[str, Any] | None = None) -> None:
        self._limit = limit
        self._steps = int(state["steps"]) if state else 0
        self._at: deque[int] = deque(state["at"] if state else ())

    def spend(self, steps: int, faults: int) -> None:
        """Count steps, and the faults among them.

        Raises:
            FaultsSpent: There are more than allowed. The count starts again then, for a run that is resumed.
        """
        self._steps += steps
        self._at.extend([self._steps] * faults)
        while self._at and self._at[0] <= self._steps - BUDGET_STEPS:
            self._at.popleft()
        if faults and len(self._at) > self._limit:
            count = len(self._at)
            self._at.clear()
            within = min(self._steps, BUDGET_STEPS)
            faults_of = "1 fault" if count == 1 else f"{count} faults"
            raise FaultsSpent(f"{faults_of} of simulators in {within} steps, env.fault_budget allows {self._limit}")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "at": list(self._at)}
