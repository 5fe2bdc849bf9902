"""How large the replay of a run is: what the machine holds, and how many steps that is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.replay.config import UNSIZED_BYTES
from actors.replay.draw.kinds import selector_bytes
from actors.replay.store.chunks import bytes_per_step
from actors.rollout import stored_arrays
from cluster import build
from cluster.config import RunConfig
from cluster.doctor import available_memory

AUTO_STEPS = 5_000_000
"""Steps that "auto" holds at most, as many as the replay of DreamerV3's reference."""

MEMORY_SHARE = 1.0 / 3.0
"""Of the machine's memory; the learner, the simulators and Ray's object store have the rest."""

DISK_SHARE = 1.0 / 3.0
"""Of the free disk under the run: its files hold up to one and a half times the bound, and checkpoints some more."""


def sized(config: RunConfig, path: Path) -> RunConfig:
    """The configuration of a run in `path` with bytes in place of `replay.max_bytes=auto`."""
    if config.replay.max_bytes != "auto":
        return config
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    size = auto_bytes(stored_bytes(config), available_memory(), shutil.disk_usage(existing).free)
    return replace(config, replay=replace(config.replay, max_bytes=size))


def auto_bytes(step_bytes: int, memory: int, free_disk: int) -> int:
    """The bound that "auto" stands for.

    Args:
        step_bytes: Bytes of a step.
        memory: Bytes of memory of the machine, 0 if unknown.
        free_disk: Bytes that are free on the disk of the run.
    """
    room = int(MEMORY_SHARE * memory) if memory else UNSIZED_BYTES
    return max(1, min(AUTO_STEPS * step_bytes, room, int(DISK_SHARE * free_disk)))


def stored_bytes(config: RunConfig) -> int:
    """Bytes of the bound that a step of the run takes."""
    arrays = stored_arrays(build.env_spec(config), build.policy(config).extras)
    selectors = sum(map(selector_bytes, config.replay.selectors.values()))
    schema_bytes = sum(spec.size * np.dtype(spec.dtype).itemsize for spec in arrays.values())
    return bytes_per_step(schema_bytes, selectors, config.replay.takes_priorities)


def held_steps(config: RunConfig) -> int:
    """Steps that the replay of a run holds when it is full, over all shards."""
    replay = config.replay
    return replay.shard_bytes // (stored_bytes(config) * replay.chunk_steps) * replay.chunk_steps * replay.num_shards
