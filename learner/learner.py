"""The learner: pulls batches from an iterator and updates an algorithm. It knows no transport."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from envs.numbers import NonNegativeInt, PositiveInt, check_fields
from learner.algorithms.base import Algorithm, UpdateResult
from learner.batch import SequenceBatch
from learner.device import DeviceName, Precision, keep_freed_memory, resolve_device

ResultSink = Callable[[SequenceBatch, UpdateResult], None]
"""Receives every batch after its update, with the priorities and write-backs the update made for it."""


@dataclass(frozen=True)
class LearnerConfig:
    """How a learner runs.

    Args:
        batch_size: Sequences of a batch, over all ranks together.
        sequence_length: Steps of a sequence.
        minibatches: Equal parts, drawn at random along the sequences, into which a batch is cut; one update each.
        updates_per_batch: Passes over every batch.
        device: "auto" takes CUDA when present.
        precision: "bf16" runs forward passes under autocast; weights, losses and the optimiser stay in float32.
        threads: Torch threads of a rank on the CPU, 0 leaves torch's choice.
    """

    batch_size: PositiveInt = 64
    sequence_length: Annotated[int, Ge(2)] = 9
    minibatches: PositiveInt = 1
    updates_per_batch: PositiveInt = 1
    device: DeviceName = "auto"
    precision: Precision = "fp32"
    threads: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_size % self.minibatches:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of minibatches {self.minibatches}")

    @property
    def updates_per_step(self) -> int:
        """Updates of one `Learner.step`."""
        return self.minibatches * self.updates_per_batch


class Learner:
    """Updates an algorithm with the batches of an iterator.

    Args:
        algorithm: What to update, on its device.
        batches: Source of batches; its order is not part of the learner's state.
        config: How to run; `threads` takes effect here for the whole process, as does `keep_freed_memory` on a CPU.
        seed: Seed of the cut into minibatches.
        on_result: Called once per batch and pass that was not cut into minibatches, with the update's result.

    Raises:
        ValueError: If `on_result` is given although batches are cut into minibatches.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        batches: Iterator[SequenceBatch],
        config: LearnerConfig,
        seed: int = 0,
        on_result: ResultSink | None = None,
    ) -> None:
        if on_result is not None and config.minibatches > 1:
            raise ValueError("priorities and write-backs need whole batches: set minibatches to 1")
        if config.threads > 0:
            torch.set_num_threads(config.threads)
        if resolve_device(config.device).type == "cpu":
            keep_freed_memory()
        self.config = config
        self.algorithm = algorithm
        self.updates = 0
        self.samples = 0
        self._batches = batches
        self._on_result = on_result
        self._rng = np.random.default_rng(seed)

    def step(self) -> dict[str, float]:
        """Take one batch and make its updates.

        Returns:
            The means of the updates' metrics, with `updates` and `samples` (steps consumed) so far and the seconds
            spent waiting for the batch (`time/wait`) and updating (`time/update`).

        Raises:
            StopIteration: If there are no more batches.
            FloatingPointError: If a metric is not finite; the weights are then not usable.
        """
        start = time.perf_counter()
        batch = next(self._batches)
        ready = time.perf_counter()
        collected: list[dict[str, float]] = []
        for _ in range(self.config.updates_per_batch):
            for part in self._parts(batch):
                result = self.algorithm.update(part)
                self.updates += 1
                self._check(result.metrics)
                collected.append(result.metrics)
                if self._on_result is not None:
                    self._on_result(part, result)
        self.samples += int(np.prod(batch.shape))
        metrics = mean_metrics(collected)
        metrics["updates"], metrics["samples"] = float(self.updates), float(self.samples)
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
            "torch_rng": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`; a state saved with CUDA loads without and the other way round."""
        self.algorithm.load_state_dict(state["algorithm"])
        self.updates, self.samples = state["updates"], state["samples"]
        self._rng.bit_generator.state = state["numpy_rng"]
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"])

    def _parts(self, batch: SequenceBatch) -> Iterator[SequenceBatch]:
        if self.config.minibatches == 1:
            yield batch
            return
        for index in np.array_split(self._rng.permutation(batch.shape[0]), self.config.minibatches):
            yield take_sequences(batch, index)

    def _check(self, metrics: dict[str, float]) -> None:
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(f"{broken[0]} is {metrics[broken[0]]} after update {self.updates}")


def take_sequences(batch: SequenceBatch, index: NDArray[np.int64]) -> SequenceBatch:
    """The sequences `index` of a batch as a new batch."""
    return batch.map_rows(lambda values: values[index])


def mean_metrics(collected: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the records that have it."""
    names = dict.fromkeys(name for metrics in collected for name in metrics)
    means: dict[str, float] = {}
    for name in names:
        values = [metrics[name] for metrics in collected if name in metrics]
        means[name] = sum(values) / len(values)
    return means
