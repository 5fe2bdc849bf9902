"""Form and values of what the environment returns, and whether its arrays stay as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.testing.play import play
from envs.testing.subject import Trial

_STEPS = 1000
_KEPT = 8
"""Observations that are held on to while the episode goes on."""


def check_observations(trial: Trial) -> None:
    """Keys, dtypes, shapes, ranges, NaN, rewards and flags under random actions; every step is checked as it comes."""
    env = trial.watch()
    taken = sum(1 for _ in play(env, _STEPS, trial.seconds))
    if not env.complaints:
        trial.found("ok", f"{taken} resets and random steps are as the spaces say")


def check_aliasing(trial: Trial) -> None:
    """Whether a returned array changes later, or an action array while it is used."""
    env = trial.watch()
    kept: list[tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], str]] = []
    changed: dict[str, str] = {}  # what -> where it was noticed
    for played in play(env, _STEPS // 4, trial.seconds):
        if played.action is not None and not np.array_equal(played.action, played.handed_over):
            changed.setdefault("the action array that it was given, which is the one that is stored", env.where)
        arrays = array_leaves(played.observation)
        for held, copies, where in kept:
            for name, array in held.items():
                if not np.array_equal(array, copies[name], equal_nan=array.dtype.kind == "f"):
                    changed.setdefault(f"{name} after it returned it", f"that of {where}, by {env.where}")
        kept = [*kept[-_KEPT:], (arrays, {name: array.copy() for name, array in arrays.items()}, env.where)]
    for what, where in changed.items():
        trial.found("fault", f"it changes {what}: return copies, and work on copies", where)
    if not changed:
        trial.found("ok", "returned arrays stay as they are, actions too")


def array_leaves(observation: Any, path: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of an observation by their path."""
    if isinstance(observation, dict):
        items: Any = observation.items()
    elif isinstance(observation, tuple):
        items = enumerate(observation)
    else:
        name = f"observation {path!r}" if path else "the observation"
        return {name: observation} if isinstance(observation, np.ndarray) else {}
    return {
        name: array
        for key, value in items
        for name, array in array_leaves(value, f"{path}/{key}" if path else str(key)).items()
    }
