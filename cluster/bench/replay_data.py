"""The workload of the replay benchmarks and the loop that times rivals in turns.

100,000 steps of rendered 64 x 64 x 3 pictures with a 3-dimensional action, a reward and the flags: 12,321 bytes a step
with the weights version; 8 streams, episodes of 1,024 steps, batches of 16 sequences of 64 steps. The pictures are
those of `nav3d_image` seen in the first person (zstd packs them some 9 times smaller), a few thousand, repeated.

Letters: B sequences, T steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.records import Block
from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import SelectorConfig
from actors.replay.shard import ReplayShard
from cluster.bench.row import BenchRow
from envs.registry import make_vector_env

Work = Callable[[], object]
"""One unit of work, e.g. one batch."""


@dataclass(frozen=True)
class Workload:
    """Sizes of a replay benchmark.

    Args:
        steps: Steps over all streams.
        streams: Streams that are written in turns.
        episode_steps: Steps of an episode, a multiple of `block_steps`.
        block_steps: Steps of an inserted block.
        batch_size: Sequences per batch, B.
        length: Steps per sequence, T.
        frames: Different pictures; they repeat.
    """

    steps: int = 100_000
    streams: int = 8
    episode_steps: int = 1024
    block_steps: int = 256
    batch_size: int = 16
    length: int = 64
    frames: int = 2048

    def __post_init__(self) -> None:
        if self.episode_steps % self.block_steps or self.block_steps % self.length:
            raise ValueError(
                f"episode_steps {self.episode_steps} must be a multiple of block_steps {self.block_steps}, "
                f"and that of length {self.length}"
            )
        if self.rounds_of_blocks < 1 or self.frames < self.block_steps:
            raise ValueError(f"{self.steps} steps or {self.frames} frames are too few for one block of each stream")

    @property
    def rounds_of_blocks(self) -> int:
        """Blocks of each stream."""
        return self.steps // (self.streams * self.block_steps)

    @property
    def stored_steps(self) -> int:
        """Steps of all whole blocks."""
        return self.rounds_of_blocks * self.streams * self.block_steps

    @property
    def batch_bytes(self) -> int:
        """Bytes of the pictures of a batch, the unit of GB/s."""
        return self.batch_size * self.length * 64 * 64 * 3


QUICK = Workload(steps=4096, streams=2, episode_steps=512, block_steps=128, batch_size=4, length=32, frames=256)
"""Shows that everything runs; its figures mean little."""


class StepSource:
    """Endless blocks of every stream, drawn from a fixed set of pictures."""

    def __init__(self, workload: Workload, seed: int = 0) -> None:
        self.workload = workload
        rng = np.random.default_rng(seed)
        self._frames = render_frames(workload.frames, seed)
        self._action = rng.uniform(-1, 1, (workload.frames, 3)).astype(np.float32)
        self._reward = rng.standard_normal(workload.frames).astype(np.float32)
        self._next = dict.fromkeys(range(workload.streams), 0)

    def restarted(self) -> StepSource:
        """The same pictures, every stream at its beginning."""
        other = copy(self)
        other._next = dict.fromkeys(self._next, 0)
        return other

    def skip(self, stream: int, steps: int) -> None:
        """Leave steps of a stream out, because somebody else has written them."""
        self._next[stream] += steps

    def block(self, stream: int) -> Block:
        """The next block of a stream; its arrays are views or small."""
        workload, first = self.workload, self._next[stream]
        steps = workload.block_steps
        self._next[stream] += steps
        low = (first + 7 * steps * stream) % (workload.frames - steps + 1)
        index = np.arange(first, first + steps)
        data = {
            "image": self._frames[low : low + steps],
            "action": self._action[low : low + steps],
            "reward": self._reward[low : low + steps],
            "is_first": index % workload.episode_steps == 0,
            "is_last": index % workload.episode_steps == workload.episode_steps - 1,
            "is_terminal": np.zeros(steps, np.bool_),
            "episode": index // workload.episode_steps,
        }
        return Block(stream, first, 0, data)

    def blocks(self) -> Iterator[Block]:
        """One filling: `stored_steps` steps, the streams in turns."""
        for _ in range(self.workload.rounds_of_blocks):
            for stream in range(self.workload.streams):
                yield self.block(stream)

    def episodes(self) -> Iterator[dict[str, NDArray[Any]]]:
        """One filling as whole episodes, for replays that store episodes."""
        workload = self.workload
        for _ in range(max(1, workload.stored_steps // (workload.streams * workload.episode_steps))):
            for stream in range(workload.streams):
                blocks = [self.block(stream).data for _ in range(workload.episode_steps // workload.block_steps)]
                yield {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def render_frames(count: int, seed: int) -> NDArray[np.uint8]:
    """Pictures [count, 64, 64, 3] of random flights, in time order for each of 8 environments in turn."""
    num_envs = 8
    env = make_vector_env("nav3d_image", num_envs, view="first_person")
    rng = np.random.default_rng(seed)
    step = env.reset(range(seed, seed + num_envs))
    frames = []
    for _ in range(-(-count // num_envs)):
        frames.append(step.observation["image"].copy())
        step = env.step(rng.uniform(-1, 1, (num_envs, 3)).astype(np.float32))
    env.close()
    return np.ascontiguousarray(np.swapaxes(np.stack(frames), 0, 1).reshape(-1, 64, 64, 3)[:count])


def replay_config(workload: Workload, num_shards: int = 1, **changes: Any) -> ReplayConfig:
    """A replay that holds the workload's steps with one spare chunk for every stream."""
    chunk_steps = min(1024, workload.episode_steps)
    step_bytes = 64 * 64 * 3 + 3 * 4 + 4 + 3 + 8 + 8
    chunks = -(-workload.stored_steps // chunk_steps) + workload.streams
    return ReplayConfig(
        num_shards=num_shards, max_bytes=num_shards * chunks * chunk_steps * step_bytes, chunk_steps=chunk_steps,
        **changes,
    )  # fmt: skip


def filled_shard(source: StepSource, selector: SelectorConfig, **options: Any) -> ReplayShard:
    """A shard with one filling of the source; `options` go to the configuration."""
    shard = ReplayShard(replay_config(source.workload, selector=selector, **options), 0)
    for block in source.blocks():
        shard.insert(block)
    return shard


def alternate(rivals: Mapping[str, Work], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Work per second of every rival in every round.

    The rivals take turns, forwards and backwards, so all see the same machine; the first turn only warms up.

    Args:
        rivals: What is timed, by name.
        rounds: Turns of each.
        repeats: Units of work of one turn.
    """
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(-1, rounds):
        order = list(rivals) if number % 2 else list(rivals)[::-1]
        for name in order:
            work = rivals[name]
            start = perf_counter()
            for _ in range(repeats):
                work()
            seconds = perf_counter() - start
            if number >= 0:
                rates[name].append(repeats / seconds)
    return rates


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over rounds of ours over theirs."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def compared(
    case: str, unit: str, rates: Mapping[str, list[float]], ours: str, peers: Mapping[str, str], scale: float = 1.0
) -> Iterator[BenchRow]:
    """One row for every peer that was timed with ours.

    Args:
        case: What was measured.
        unit: Of the rates times `scale`.
        rates: From `alternate`.
        ours: Our name in `rates`.
        peers: Name in `rates` -> name to show.
        scale: Units of one work, e.g. the steps of a block.
    """
    value = scale * statistics.median(rates[ours])
    for peer, shown in peers.items():
        peer_value = scale * statistics.median(rates[peer])
        yield BenchRow("replay", case, value, unit, 1, shown, peer_value, median_ratio(rates[ours], rates[peer]))


def skipped(case: str, value: float, unit: str, peer: str, reason: str) -> BenchRow:
    """A row that names a peer which could not run here."""
    return BenchRow("replay", case, value, unit, 1, f"{peer} (skipped: {reason})")
