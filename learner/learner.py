"""The learner: pulls batches from an iterator and updates an algorithm. It knows no transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learner.algorithms.base import Algorithm, Part, UpdateResult, nonfinite
from learner.batch import SequenceBatch
from learner.device import keep_freed_memory, resolve_device
from learner.learner_config import LearnerConfig
from learner.means import mean_metrics
from learner.nonfinite import BundleSink, Firewall, NonFiniteError, SkippedUpdate

ResultSink = Callable[[SequenceBatch, UpdateResult], None]
"""Receives every batch, or part of one, after its update, with the priorities and write-backs made for it."""


class Learner:
    """Updates an algorithm with the batches of an iterator.

    Args:
        algorithm: What to update, on its device.
        batches: Source of batches; its order is not part of the learner's state.
        config: How to run; `threads` takes effect here for the whole process, as does `keep_freed_memory` on a CPU.
        seed: Seed of the cut into minibatches.
        on_result: Called after every update with the part of the batch it was made of, and its result.
        torch_seed: Seed of torch's generators in this process, None to leave them as they are.
        on_skipped: Writes a bundle of an update that was skipped because it was not finite.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        batches: Iterator[SequenceBatch],
        config: LearnerConfig,
        seed: int = 0,
        on_result: ResultSink | None = None,
        torch_seed: int | None = None,
        on_skipped: BundleSink | None = None,
    ) -> None:
        if config.threads > 0:
            torch.set_num_threads(config.threads)
        device = resolve_device(config.device)
        if device.type == "cpu":
            keep_freed_memory()
        if torch_seed is not None:
            torch.manual_seed(torch_seed)
        self.config = config
        self.algorithm = algorithm
        self.updates = 0
        self.samples = 0
        self._batches = batches
        self._on_result = on_result
        self._rng = np.random.default_rng(seed)
        self._firewall = Firewall(config.nonfinite_budget, device, on_skipped)

    def step(self, part: Part | None = None) -> dict[str, float]:
        """Take one batch and make its updates.

        Args:
            part: What the updates are confined to, None for everything.

        Returns:
            The means of the updates' metrics, with `updates` and `samples` (steps consumed) so far, `nonfinite` (the
            updates of this batch that were skipped) and the seconds spent waiting for the batch (`time/wait`) and
            updating (`time/update`).

        Raises:
            StopIteration: If there are no more batches.
            NonFiniteError: If as many updates in a row as `nonfinite_budget` says were skipped.
        """
        start = time.perf_counter()
        batch = next(self._batches)
        ready = time.perf_counter()
        collected: list[dict[str, float]] = []
        skipped = 0
        for _ in range(self.config.updates_per_batch):
            for rows in self._parts(batch):
                result = self._update(rows, part)
                if result.skipped:
                    skipped += 1
                    continue
                collected.append(result.metrics)
                if self._on_result is not None:
                    self._on_result(rows, result)
        self.samples += int(np.prod(batch.shape))
        metrics = mean_metrics(collected)
        metrics["updates"], metrics["samples"] = float(self.updates), float(self.samples)
        metrics["nonfinite"] = float(skipped)
        metrics["time/wait"], metrics["time/update"] = ready - start, time.perf_counter() - ready
        return metrics

    def export_weights(self) -> dict[str, NDArray[Any]]:
        """What actors need to act, see `Algorithm.export_weights`."""
        return self.algorithm.export_weights()

    def state_dict(self) -> dict[str, Any]:
        """The algorithm, the counters and the random states; plain values, arrays and tensors."""
        state: dict[str, Any] = {
            "algorithm": self.algorithm.state_dict(),
            "updates": self.updates,
            "samples": self.samples,
            "numpy_rng": self._rng.bit_generator.state,
            "firewall": self._firewall.state_dict(),
        }
        return state | _torch_states()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; a state saved with CUDA loads without and the other way round."""
        self.algorithm.load_state_dict(state["algorithm"])
        self.updates, self.samples = state["updates"], state["samples"]
        self._rng.bit_generator.state = state["numpy_rng"]
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"])
        if "firewall" in state:
            self._firewall.load_state_dict(state["firewall"])

    def _parts(self, batch: SequenceBatch) -> Iterator[SequenceBatch]:
        if self.config.minibatches == 1:
            yield batch
            return
        for index in np.array_split(self._rng.permutation(batch.shape[0]), self.config.minibatches):
            yield take_sequences(batch, index)

    def _update(self, rows: SequenceBatch, part: Part | None) -> UpdateResult:
        """One update, or the record of one that was skipped."""
        before = _torch_states()
        result = self.algorithm.update(rows, part)
        bad = {name: result.metrics[name] for name in nonfinite(result.metrics)}
        if result.skipped:
            record = SkippedUpdate(self.updates + 1, rows, part, bad, lambda: self.state_dict() | before)
            self._firewall.skipped(record)
            return result
        self.updates += 1
        if bad:  # an algorithm that does not look at its losses itself
            name, value = next(iter(bad.items()))
            raise NonFiniteError(f"{name} is {value} after update {self.updates}, which was made all the same")
        self._firewall.passed()
        return result


def _torch_states() -> dict[str, torch.Tensor]:
    """The states of torch's generators in this process."""
    states = {"torch_rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda_rng"] = torch.cuda.get_rng_state()
    return states


def take_sequences(batch: SequenceBatch, index: NDArray[np.int64]) -> SequenceBatch:
    """The sequences `index` of a batch as a new batch."""
    return batch.map_rows(lambda values: values[index])


def is_due(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` updates was reached on the way from `before` to `now`."""
    return now // every > before // every
