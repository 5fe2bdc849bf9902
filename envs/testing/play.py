"""Playing a watched environment with random actions, and comparing what came of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from envs.testing.subject import Watched


@dataclass(frozen=True)
class Played:
    """One reset or step."""

    observation: Any
    reward: Any  # 0.0 of a reset
    terminated: bool
    truncated: bool
    action: Any = None  # None of a reset
    handed_over: Any = None  # the copy of it that the environment was given

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


def play(
    env: Watched, steps: int, seconds: float, seed: int | None = 0, actions: Iterable[Any] | None = None
) -> Iterator[Played]:
    """Resets and at most `steps` steps; after an end the next episode starts without a seed.

    Args:
        env: The environment.
        steps: How many at most.
        seconds: Stop after so long.
        seed: Of the first reset.
        actions: What to do in place of random actions, which start from their own seed.
    """
    deadline = monotonic() + seconds
    yield Played(env.reset(seed)[0], 0.0, False, False)
    for action in itertools.islice(env.samples() if actions is None else actions, steps):
        handed_over = copy.deepcopy(action)
        observation, reward, terminated, truncated, _ = env.step(handed_over)
        played = Played(observation, reward, bool(terminated), bool(truncated), action, handed_over)
        yield played
        if monotonic() > deadline:
            return
        if played.ended:
            yield Played(env.reset()[0], 0.0, False, False)


def difference(one: Played, other: Played) -> str | None:
    """What two steps that should be equal differ in, with both values; None if in nothing."""
    for name in ("terminated", "truncated", "reward"):
        if not np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "reward"):
            return f"{name} {getattr(one, name)!r} and {getattr(other, name)!r}"
    return value_difference(one.observation, other.observation, "")


def value_difference(one: Any, other: Any, path: str) -> str | None:
    """The first part in which two observations differ, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"keys {sorted(one)} and {sorted(other)}"
        pairs: Any = ((key, one[key], other[key]) for key in one)
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = zip(range(len(one)), one, other, strict=True)
    else:
        first, second = np.asarray(one), np.asarray(other)
        name = f"observation {path!r}" if path else "the observation"
        if first.shape != second.shape:
            return f"{name}: shapes {first.shape} and {second.shape}"
        differs = first != second
        if first.dtype.kind == "f" and second.dtype.kind == "f":
            differs &= ~(np.isnan(first) & np.isnan(second))
        if not np.any(differs):
            return None
        at = tuple(np.argwhere(np.atleast_1d(differs))[0].tolist()) if first.ndim else ()
        return f"{name}{list(at) if at else ''}: {first[at]!r} and {second[at]!r}"
    found = (value_difference(a, b, f"{path}/{key}" if path else str(key)) for key, a, b in pairs)
    return next((text for text in found if text is not None), None)
