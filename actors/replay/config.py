"""Configuration of the replay service."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from actors.replay.draw.kinds import SelectorConfig, UniformConfig, takes_priorities
from envs.numbers import PositiveFloat, PositiveInt, check_fields

TRAIN = "train"
"""The view that learners draw from."""
UNSIZED_BYTES = 1 << 30
"""What "auto" is where nothing says what the machine holds."""
_VIEW_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class LimiterConfig:
    """Keeps the ratio of trained to inserted steps in an interval.

    Args:
        min_size: Inserted steps before the first sample is allowed.
        samples_per_insert: Trained steps (B * T summed over batches) per inserted step. None leaves it free: on Ray
            both sides go as fast as they can, in one process `cluster.updates_per_lease` updates follow every collect.
        error_buffer: Half width, in trained steps, of the allowed interval around the ratio; None picks twice
            the smallest width that cannot deadlock with the block and batch sizes in use.
    """

    min_size: PositiveInt = 1000
    samples_per_insert: PositiveFloat | None = None
    error_buffer: PositiveFloat | None = None

    def __post_init__(self) -> None:
        check_fields(self)


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
    segment_bytes: PositiveInt = 64 << 20
    max_delay_seconds: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ReplayConfig:
    """Size, sampling and durability of the sharded replay.

    Args:
        num_shards: Shards that share the streams and the bytes.
        max_bytes: Bound on the bytes of all stored arrays, over all shards; never exceeded. A run that begins puts what
            its machine holds in place of "auto" (`cluster.replay_size`); a replay without a run takes 1 GiB.
        chunk_steps: Steps of one chunk, the unit of allocation and of eviction.
        selector: How learners draw: the view `train`.
        views: How others draw, by the name of their view. Views share the data, and never each other's queues.
        mixed_batches: Whether a batch mixes shards; False takes each batch from one shard, drawn by its mass.
        transport: How batches reach the learner: "slots" are shared memory of the learner's node, "objects" go
            through Ray's object store, "auto" takes slots where a shard is on the learner's node.
        unapplied_bytes: Bound, per shard, on the bytes of blocks that were sent to it and not stored yet.
        durability: What survives the death of a shard.
        limiter: Ratio of trained to inserted steps.
    """

    num_shards: Annotated[int, Ge(1), Le(4096)] = 2
    max_bytes: Annotated[int, Ge(1), Le(1 << 50)] | Literal["auto"] = "auto"
    chunk_steps: PositiveInt = 1024
    selector: SelectorConfig = field(default_factory=UniformConfig)
    mixed_batches: bool = False
    transport: Literal["auto", "slots", "objects"] = "auto"
    unapplied_bytes: PositiveInt = 256 << 20
    durability: DurabilityConfig = field(default_factory=DurabilityConfig)
    limiter: LimiterConfig = field(default_factory=LimiterConfig)
    views: dict[str, SelectorConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.views:
            if name == TRAIN or not _VIEW_NAME.fullmatch(name):
                raise ValueError(f"views are named by small letters, digits and '_', and not {TRAIN!r}, got {name!r}")

    @property
    def shard_bytes(self) -> int:
        """Byte bound of one shard."""
        total = UNSIZED_BYTES if self.max_bytes == "auto" else self.max_bytes
        return total // self.num_shards

    @property
    def selectors(self) -> dict[str, SelectorConfig]:
        """How every view draws, by name."""
        return {TRAIN: self.selector, **self.views}

    @property
    def takes_priorities(self) -> bool:
        """Whether some view is of no use without priorities."""
        return any(takes_priorities(selector) for selector in self.selectors.values())
