"""Bootstrap weights and the held-out split as pure functions of a step's origin.

Both come from a counter-based hash, so nothing is stored: the weight of a step for a member is the same whenever,
on whatever rank and after whatever restart the step is sampled again.

Letters: N steps, K members.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["poisson", "bernoulli", "none"]
UInt64 = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_POISSON_CDF = np.cumsum([1.0, 1.0, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040]) * np.exp(-1.0)
_BOOTSTRAP_ROLE, _SPLIT_ROLE = 1, 2


def splitmix64(values: NDArray[Any]) -> UInt64:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), a bijection of uint64 that mixes every bit."""
    z = values.astype(np.uint64) + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_uniform(*keys: NDArray[Any] | int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) determined by the keys, which broadcast against each other."""
    state: UInt64 = np.zeros(1, np.uint64)
    for key in keys:
        array = np.atleast_1d(np.asarray(key))
        words = array.astype(np.int64).view(np.uint64) if array.dtype.kind == "i" else array.astype(np.uint64)
        state = splitmix64(state ^ splitmix64(words))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def bootstrap_weights(
    stream_id: NDArray[np.uint64], step: NDArray[np.int64], members: int, seed: int, kind: Kind = "poisson"
) -> NDArray[np.float32]:
    """How often each step occurs in the training set of each member.

    Args:
        stream_id: [N] stream of each step.
        step: [N] index of each step within its stream.
        members: K.
        seed: Seed of the resampling.
        kind: "poisson" draws from Poisson(1), the limit of sampling with replacement (capped at 8);
            "bernoulli" draws 0 or 2 with equal probability; "none" is 1 for everyone.

    Returns:
        float32 [K, N] of mean 1.
    """
    if kind == "none":
        return np.ones((members, len(step)), np.float32)
    uniform = hash_uniform(seed, _BOOTSTRAP_ROLE, stream_id[None], step[None], np.arange(members)[:, None])
    if kind == "bernoulli":
        return np.where(uniform < 0.5, np.float32(0.0), np.float32(2.0))
    return np.searchsorted(_POISSON_CDF, uniform, side="right").astype(np.float32)


def held_out(
    stream_id: NDArray[np.uint64], episode: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which steps belong to held-out episodes: whole episodes, chosen independently with probability `fraction`.

    Args:
        stream_id: [N] stream of each step.
        episode: [N] counter of the episode within its stream.
        fraction: Share of the episodes that is held out, in [0, 1).
        seed: Seed of the choice.
    """
    return hash_uniform(seed, _SPLIT_ROLE, stream_id, episode) < fraction
