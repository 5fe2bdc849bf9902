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
class DurabilityConfig:
    """What survives the death of a shard's process.

    Args:
        mode: "none" keeps steps in memory and writes them at checkpoints only; "async" writes every block to the
            shard's log within `max_delay_seconds` of its acknowledgement; "sync" before its acknowledgement.
        compression: "auto" compresses a record with zstd where that pays; "zstd" always, "none" never.
        segment_bytes: Size at which the log starts a new file.
        max_delay_seconds: Longest time an acknowledged block may wait to be written under "async".
    """

    mode: Literal["none", "async", "sync"] = "none"
    compression: Literal["auto", "zstd", "none"] = "auto"
    segment_bytes: int = 64 << 20
    max_delay_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in (("mode", ("none", "async", "sync")), ("compression", ("auto", "zstd", "none"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.segment_bytes < 1:
            raise ValueError(f"segment_bytes must be positive, got {self.segment_bytes}")
        if not self.max_delay_seconds > 0:
            raise ValueError(f"max_delay_seconds must be positive, got {self.max_delay_seconds}")


@dataclass(frozen=True)
class SelectorConfig:
    """Which sequences a sample takes: a mixture of distributions over the valid starts.

    Args:
        uniform: Fraction of the sequences drawn uniformly.
        prioritized: Fraction drawn in proportion to priority^priority_exponent.
        recency: Fraction drawn with a preference for newer steps.
        fifo: Fraction taken in the order of insertion, every step once.
        online: Whether every new sequence is first trained on once, in order of arrival; the mixture fills the rest.
        priority_exponent: Alpha; 0 makes the prioritized fraction uniform (Schaul et al. 2016, equation 1).
        weight_exponent: Beta of the importance weights (N * probability)^-beta.
        recency_exponent: How strongly the recency fraction prefers newer steps: a step as old as a shard is large
            is e^exponent times less likely than the newest; 0 makes it uniform.
    """

    uniform: float = 1.0
    prioritized: float = 0.0
    recency: float = 0.0
    fifo: float = 0.0
    online: bool = False
    priority_exponent: float = 0.6
    weight_exponent: float = 0.4
    recency_exponent: float = 1.0

    def __post_init__(self) -> None:
        if any(not 0 <= fraction <= 1 for fraction in self.fractions.values()):
            raise ValueError(f"fractions must lie in [0, 1], got {self.fractions}")
        if abs(sum(self.fractions.values()) - 1) > 1e-6:
            raise ValueError(f"the fractions must sum to 1, got {self.fractions}")
        for name in ("priority_exponent", "weight_exponent", "recency_exponent"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")

    @property
    def fractions(self) -> dict[str, float]:
        """Fraction of every distribution by name."""
        return {name: getattr(self, name) for name in ("uniform", "prioritized", "recency", "fifo")}


@dataclass(frozen=True)
class ReplayConfig:
    """Size, sampling and durability of the sharded replay.

    Args:
        num_shards: Shards that share the streams and the bytes.
        max_bytes: Bound on the bytes of all stored arrays, over all shards; never exceeded.
        chunk_steps: Steps of one chunk, the unit of allocation and of eviction.
        selector: Distribution over the valid starts of a sequence.
        mixed_batches: Whether a batch mixes shards; False takes each batch from one shard, drawn by its mass.
        transport: How batches reach the learner: "slots" are shared memory of the learner's node, "objects" go
            through Ray's object store, "auto" takes slots where a shard is on the learner's node.
        unapplied_bytes: Bound, per shard, on the bytes of blocks that were sent to it and not stored yet.
        durability: What survives the death of a shard.
        limiter: Ratio of trained to inserted steps.
    """

    num_shards: int = 2
    max_bytes: int = 1 << 30
    chunk_steps: int = 1024
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    mixed_batches: bool = False
    transport: Literal["auto", "slots", "objects"] = "auto"
    unapplied_bytes: int = 256 << 20
    durability: DurabilityConfig = field(default_factory=DurabilityConfig)
    limiter: LimiterConfig = field(default_factory=LimiterConfig)

    def __post_init__(self) -> None:
        if self.num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {self.num_shards}")
        if self.chunk_steps < 1:
            raise ValueError(f"chunk_steps must be at least 1, got {self.chunk_steps}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be positive, got {self.max_bytes}")
        if self.transport not in ("auto", "slots", "objects"):
            raise ValueError(f"transport must be 'auto', 'slots' or 'objects', got {self.transport!r}")
        if self.unapplied_bytes < 1:
            raise ValueError(f"unapplied_bytes must be positive, got {self.unapplied_bytes}")

    @property
    def shard_bytes(self) -> int:
        """Byte bound of one shard."""
        return self.max_bytes // self.num_shards
