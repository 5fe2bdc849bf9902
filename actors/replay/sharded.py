"""Several shards behind the interface of one.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.shard import ReplayShard
from learner.batch import SequenceBatch

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: consecutive ids fall far apart, so shards stay even


def route(stream_id: int, num_shards: int) -> int:
    """The shard of a stream: Fibonacci hashing (Knuth, TAOCP 3, 6.4) of its id."""
    mixed = (stream_id * _GOLDEN) & 0xFFFFFFFFFFFFFFFF
    return ((mixed >> 32) * num_shards) >> 32


def draw_shard(rng: np.random.Generator, masses: NDArray[np.float64]) -> int:
    """A shard drawn in proportion to the masses [num_shards].

    Raises:
        ValueError: No shard has any mass.
    """
    ends = np.cumsum(masses)
    if not ends[-1] > 0:
        raise ValueError(f"none of the {len(masses)} shards holds a sequence of the asked length")
    return int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))


def concatenate(batches: Sequence[SequenceBatch]) -> SequenceBatch:
    """Batches of equal length as one batch."""
    return SequenceBatch(
        data={key: np.concatenate([b.data[key] for b in batches]) for key in batches[0].data},
        stream_id=np.concatenate([b.stream_id for b in batches]),
        first_step=np.concatenate([b.first_step for b in batches]),
        policy_version=np.concatenate([b.policy_version for b in batches]),
        weight=np.concatenate([b.weight for b in batches]),
        handle=np.concatenate([b.handle for b in batches]),
    )


class ShardedReplay:
    """Routes streams to shards and samples so that every stored sequence is equally likely.

    By default each batch comes from one shard, drawn in proportion to its mass, as through the object
    store; `mixed` draws the shard of every sequence anew.

    Args:
        shards: The shards, local here.
        seed: Seed of the choice of shards.
        mixed: Whether one batch mixes shards.
    """

    def __init__(self, shards: Sequence[ReplayShard], seed: int, mixed: bool = False) -> None:
        if not shards:
            raise ValueError("a replay needs at least one shard")
        self.shards = list(shards)
        self._rng = np.random.default_rng(seed)
        self._mixed = mixed

    @classmethod
    def from_config(cls, config: ReplayConfig, seed: int) -> ShardedReplay:
        """Local shards with seeds derived from `seed`."""
        seeds = np.random.SeedSequence(seed).generate_state(config.num_shards + 1, np.uint64)
        shards = [ReplayShard(config, int(s)) for s in seeds[1:]]
        return cls(shards, int(seeds[0]), config.mixed_batches)

    def insert(self, block: Block) -> int:
        """Store a block in its stream's shard; see `ReplayShard.insert`."""
        return self.shards[route(block.stream_id, len(self.shards))].insert(block)

    def sample(self, batch_size: int, length: int) -> SequenceBatch:
        """Draw `batch_size` sequences of `length` steps, with replacement.

        Raises:
            ValueError: No stored stream is that long, or a size is not positive.
        """
        masses = np.array([shard.mass(length) for shard in self.shards])
        if not self._mixed:
            return self.shards[draw_shard(self._rng, masses)].sample(batch_size, length)
        if not masses.sum() > 0:
            raise ValueError(f"no sequence of {length} steps is stored; the replay holds {self.num_steps} steps")
        counts = self._rng.multinomial(batch_size, masses / masses.sum())
        return concatenate([shard.sample(int(n), length) for shard, n in zip(self.shards, counts, strict=True) if n])

    def read(self, stream_id: int, first_step: int, length: int) -> SequenceBatch:
        """The `length` steps of a stream from `first_step` on; see `ReplayShard.read`."""
        return self.shards[route(stream_id, len(self.shards))].read(stream_id, first_step, length)

    def streams(self) -> dict[int, tuple[int, int]]:
        """(first stored step, end) of every stored stream."""
        return {stream: span for shard in self.shards for stream, span in shard.streams().items()}

    @property
    def num_steps(self) -> int:
        """Steps stored."""
        return sum(shard.num_steps for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of the chunks in use."""
        return sum(shard.nbytes for shard in self.shards)

    def num_items(self, length: int) -> int:
        """Valid starts of sequences of `length` steps."""
        return sum(shard.num_items(length) for shard in self.shards)

    def mass(self, length: int) -> float:
        """Sum of the shards' masses."""
        return sum(shard.mass(length) for shard in self.shards)

    def stats(self) -> dict[str, float]:
        """The shards' statistics summed."""
        stats = [shard.stats() for shard in self.shards]
        return {name: sum(s[name] for s in stats) for name in stats[0]}

    def state_dict(self) -> dict[str, Any]:
        """State of the shards and of the choice of shards."""
        return {"rng": self._rng.bit_generator.state, "shards": [shard.state_dict() for shard in self.shards]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many shards of the same size.

        Raises:
            ValueError: The numbers or sizes of the shards differ.
        """
        if len(state["shards"]) != len(self.shards):
            raise ValueError(f"the saved replay has {len(state['shards'])} shards, this one {len(self.shards)}")
        for shard, saved in zip(self.shards, state["shards"], strict=True):
            shard.load_state_dict(saved)
        self._rng.bit_generator.state = state["rng"]

    def save(self, directory: Path) -> None:
        """Write every shard to `directory/shard-<index>.npz` and, last, `directory/manifest.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        for index, shard in enumerate(self.shards):
            shard.save(directory / f"shard-{index}.npz")
        manifest = {"num_shards": len(self.shards), "rng": self._rng.bit_generator.state}
        temporary = directory / "manifest.json.tmp"
        temporary.write_text(json.dumps(manifest))
        temporary.replace(directory / "manifest.json")

    def restore(self, directory: Path) -> None:
        """Load the files written by `save`.

        Raises:
            ValueError: A file is damaged, missing or of a shard of another size.
        """
        try:
            manifest = json.loads((directory / "manifest.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{directory} holds no complete replay: {error}") from error
        if manifest["num_shards"] != len(self.shards):
            raise ValueError(f"{directory} holds {manifest['num_shards']} shards, this replay has {len(self.shards)}")
        for index, shard in enumerate(self.shards):
            shard.restore(directory / f"shard-{index}.npz")
        self._rng.bit_generator.state = manifest["rng"]
