"""How a learner runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from envs.numbers import NonNegativeInt, PositiveInt, check_fields

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]


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
        nonfinite_budget: Updates in a row that are skipped because a loss or a gradient is not finite, and end the run.
    """

    batch_size: PositiveInt = 64
    sequence_length: Annotated[int, Ge(2)] = 9
    minibatches: PositiveInt = 1
    updates_per_batch: PositiveInt = 1
    device: DeviceName = "auto"
    precision: Precision = "fp32"
    threads: NonNegativeInt = 0
    nonfinite_budget: PositiveInt = 10

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_size % self.minibatches:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of minibatches {self.minibatches}")

    @property
    def updates_per_step(self) -> int:
        """Updates of one `Learner.step`."""
        return self.minibatches * self.updates_per_batch
