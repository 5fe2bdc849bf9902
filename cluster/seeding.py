"""One root seed fans out by role and index."""

from __future__ import annotations

import zlib

import numpy as np


def derive_seed(root: int, role: str, *index: int) -> int:
    """A 63-bit seed for `role` and its indices; equal arguments give equal seeds on every machine."""
    entropy = [root & 0xFFFFFFFFFFFFFFFF, zlib.crc32(role.encode()), len(index), *index]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
