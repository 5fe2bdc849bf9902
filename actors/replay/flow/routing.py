"""Which shard a stream belongs to.

Letters: B sequences.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: consecutive ids fall far apart, so shards stay even


def route(stream_id: int, num_shards: int) -> int:
    """The shard of a stream: Fibonacci hashing (Knuth, TAOCP 3, 6.4) of its id."""
    mixed = (stream_id * _GOLDEN) & 0xFFFFFFFFFFFFFFFF
    return ((mixed >> 32) * num_shards) >> 32


def route_many(stream_id: NDArray[np.uint64], num_shards: int) -> NDArray[np.int64]:
    """The shards [B] of streams [B], each as by `route`."""
    mixed = stream_id.astype(np.uint64) * np.uint64(_GOLDEN)
    return np.asarray((mixed >> np.uint64(32)) * np.uint64(num_shards) >> np.uint64(32), np.int64)
