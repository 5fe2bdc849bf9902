"""Configuration of the replay service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LimiterConfig:
    """Keeps the ratio of trained to inserted steps in an interval.

    Args:
        min_size: Inserted steps before the first sample is allowed.
        samples_per_insert: Trained steps (B * T summed over batches) per inserted step, None to leave it free.
        error_buffer: Half width, in trained steps, of the allowed interval around the ratio; None picks twice
            the smallest width that cannot deadlock with the block and batch sizes in use.
    """

    min_size: int = 1000
    samples_per_insert: float | None = None
    error_buffer: float | None = None

    def __post_init__(self) -> None:
        if self.min_size < 1:
            raise ValueError(f"min_size must be at least 1 step, got {self.min_size}")
        if self.samples_per_insert is not None and not 0 < self.samples_per_insert < float("inf"):
            raise ValueError(f"samples_per_insert must be positive and finite or None, got {self.samples_per_insert}")
        if self.error_buffer is not None and not self.error_buffer > 0:
            raise ValueError(f"error_buffer must be positive or None, got {self.error_buffer}")


@dataclass(frozen=True)
class ReplayConfig:
    """Size and sampling of the sharded replay.

    Args:
        num_shards: Shards that share the streams and the bytes.
        max_bytes: Bound on the bytes of all stored arrays, over all shards; never exceeded.
        chunk_steps: Steps of one chunk, the unit of allocation and of eviction.
        selector: Distribution over the valid starts of a sequence.
        mixed_batches: Whether a batch mixes shards; False takes each batch from one shard, drawn by its mass.
        limiter: Ratio of trained to inserted steps.
    """

    num_shards: int = 2
    max_bytes: int = 1 << 30
    chunk_steps: int = 1024
    selector: Literal["uniform"] = "uniform"
    mixed_batches: bool = False
    limiter: LimiterConfig = field(default_factory=LimiterConfig)

    def __post_init__(self) -> None:
        if self.num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {self.num_shards}")
        if self.chunk_steps < 1:
            raise ValueError(f"chunk_steps must be at least 1, got {self.chunk_steps}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be positive, got {self.max_bytes}")
        if self.selector != "uniform":
            raise ValueError(f"selector must be 'uniform', got {self.selector!r}")

    @property
    def shard_bytes(self) -> int:
        """Byte bound of one shard."""
        return self.max_bytes // self.num_shards
