"""Searches anew, with newer weights, from steps that are stored already (Reanalyze; Schrittwieser et al. 2021).

What the policy stores with a step when it acts are the targets that the learner imitates: they age, while the weights
get better. A reanalyzer draws stored steps through a view of the replay of its own, so that nobody else's draws change,
has the policy act at them once more, and writes what it found back beside the old targets, with its version and a new
priority. The learner takes the one or the other (`reanalyze.fraction`).

Letters: B steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.records import Policy
from envs.specs import StepBatch
from learner.algorithms.base import UpdateResult
from learner.batch import SequenceBatch
from learner.searched import FRESH_VERSION, fresh

if TYPE_CHECKING:
    from learner.learner import ResultSink  # imports torch


class Reanalyzer:
    """Draws, searches and writes back.

    Args:
        policy: Searches; what it stores with a step under `key` is written to `fresh(key)`, where that is stored.
        observation_keys: What the policy looks at.
        batches: Stored steps, as sequences of one step.
        write: Takes priorities and targets to the replay.
        noise: Whether searches have the noise of exploration.
        seed: Of what searches draw.

    Raises:
        ValueError: The policy stores nothing that could be made anew.
    """

    def __init__(
        self,
        policy: Policy,
        observation_keys: Sequence[str],
        batches: Iterator[SequenceBatch],
        write: ResultSink,
        noise: bool = False,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self._targets = [key for key in policy.extras if fresh(key) in policy.extras]
        if not self._targets:
            raise ValueError("the policy stores no targets that could be made anew")
        self._keys, self._batches, self._write, self._noise = observation_keys, batches, write, noise
        self._rng = np.random.default_rng(seed)

    def step(self) -> dict[str, float]:
        """Search one batch anew and write the targets back; nothing while the policy has no weights.

        Returns:
            How many `steps` were searched, the `age` of the targets that they had, in versions, and the milliseconds
            that it took (`time/ms`).
        """
        if self.policy.version == 0:
            return {}
        start = perf_counter()
        batch = next(self._batches)
        data, rows = batch.data, len(batch.handle)
        seen = {key: data[key][:, 0] for key in self._keys}
        first, last, terminal = (data[key][:, 0] for key in ("is_first", "is_last", "is_terminal"))
        carry = self.policy.initial(self._rng.integers(2**64, size=rows, dtype=np.uint64))
        version = self.policy.version
        output = self.policy.act(StepBatch(seen, data["reward"][:, 0], first, last, terminal), carry, self._noise)
        values: dict[str, NDArray[Any]] = {fresh(key): output.extras[key][:, None] for key in self._targets}
        values[FRESH_VERSION] = np.full((rows, 1), version, np.int32)
        before = np.maximum(data[FRESH_VERSION][:, 0], batch.policy_version)
        self._write(batch, UpdateResult({}, output.priority, values, version))
        age = np.maximum(version - before, 0)
        return {"steps": float(rows), "age": float(age.mean()), "time/ms": 1e3 * (perf_counter() - start)}

    def state_dict(self) -> dict[str, Any]:
        """Where its random numbers stand."""
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._rng.bit_generator.state = state["rng"]


class Pace:
    """How many steps may be searched anew: so many for every update of the learner.

    Args:
        steps_per_update: So many, None for any number.
        updates: Made before; nothing is owed for them.
    """

    def __init__(self, steps_per_update: float | None, updates: int = 0) -> None:
        self._rate, self.searched = steps_per_update, (steps_per_update or 0.0) * updates

    def allows(self, steps: int, updates: int) -> bool:
        """Whether so many steps more may be searched, after so many updates."""
        return self._rate is None or self.searched + steps <= self._rate * updates

    def took(self, steps: int) -> None:
        """Count steps that are searched; negative ones were not after all."""
        self.searched += steps
