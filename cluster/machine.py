"""Whether this machine has what a run asks of it, found out before anything is started or written."""

from __future__ import annotations

import math
import os

import numpy as np

from cluster import build
from cluster.config import RunConfig


def check(config: RunConfig) -> None:
    """Refuse a run whose processes all live on this machine and which it cannot hold.

    Args:
        config: The run; one that joins a cluster may find there what this machine has not, and is not checked.

    Raises:
        ValueError: A batch is larger than the memory, or there is no GPU for `learner.device=cuda`.
    """
    if config.cluster.mode == "ray" and os.environ.get("RAY_ADDRESS") not in (None, "", "local"):
        return
    needed, memory = batch_bytes(config), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(
            f"learner.batch_size {config.learner.batch_size} sequences of {config.replayed_length} steps "
            f"(learner.sequence_length and what leads up to it) take {needed / 2**30:.1f} GiB, "
            f"this machine has {memory / 2**30:.1f} GiB"
        )
    if config.learner.device == "cuda":
        from learner.device import resolve_device

        resolve_device(config.learner.device)


def batch_bytes(config: RunConfig) -> int:
    """Bytes of the observations and actions of one batch, over all ranks."""
    spec = build.env_spec(config)
    arrays = (*spec.observation.values(), spec.action)
    step = sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
    return config.learner.batch_size * config.replayed_length * step
