"""Can worldfleet encode the spaces, and how."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from envs.specs import ACTION_LIMIT, ArraySpec
from envs.testing.subject import Trial


def check_spaces(trial: Trial) -> None:
    """Spaces, their encoding, and what of it deserves a look."""
    env = trial.watch().env
    trial.place("encoding its spaces")
    action = env.action_space
    trial.fact("action_space", str(action))
    trial.fact("observation_space", " ".join(str(env.observation_space).split()))
    try:
        spec = trial.adapt().spec
    except ValueError as error:
        trial.found("fault", f"worldfleet cannot encode it: {error}")
        return
    trial.fact("spec", spec)
    for key, part in spec.observation.items():
        trial.found("ok", f"observation {key!r}: {describe(part)}")
    trial.found("ok", f"action {action}: {describe(spec.action)}")
    _note_observations(trial, env.observation_space)
    _note_actions(trial, action)


def describe(spec: ArraySpec) -> str:
    """dtype, shape and bounds."""
    if spec.num_values is not None:
        return f"{spec.dtype}, ids 0 to {spec.num_values - 1}"
    low, high = np.min(spec.low), np.max(spec.high)
    return f"{spec.dtype} {list(spec.shape)} in [{low:g}, {high:g}]"


def _note_observations(trial: Trial, space: spaces.Space[Any]) -> None:
    for name, part in _boxes(space, ""):
        if part.dtype == np.float64:
            trial.found("note", f"observation {name}float64 becomes float32")
        if part.dtype == np.uint8 and len(part.shape) == 3 and part.shape[0] in (1, 3, 4) and part.shape[2] > 4:
            text = f"observation {name}uint8 {list(part.shape)} has its channels first"
            trial.found("note", f"{text}: images are [height, width, channels]")


def _boxes(space: spaces.Space[Any], path: str) -> list[tuple[str, spaces.Box]]:
    if isinstance(space, spaces.Dict):
        return [box for key, part in space.items() for box in _boxes(part, f"{path}{key} ")]
    return [(path, space)] if isinstance(space, spaces.Box) else []


def _note_actions(trial: Trial, space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Discrete):
        if space.start:
            trial.found("note", f"action ids start at {space.start}; policies and the replay count them from 0")
        return
    assert isinstance(space, spaces.Box)
    low, high = space.low.ravel(), space.high.ravel()
    for index in np.flatnonzero(low == high):
        trial.found("note", f"action dimension {index} is fixed: low == high == {low[index]:g}")
    wide = np.flatnonzero(np.isfinite(low) & np.isfinite(high) & (np.maximum(-low, high) > ACTION_LIMIT))
    if len(wide):
        text = f"action dimensions {wide.tolist()} are so wide that their range overflows float32"
        trial.found("fault", f"{text}: bounds must be within {ACTION_LIMIT:.3g} (gymnasium.wrappers.RescaleAction)")
    unbounded = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
    if len(unbounded):
        text = f"action dimensions {unbounded.tolist()} have no bounds; every algorithm needs a bounded box"
        trial.found("fault", f"{text} (gymnasium.wrappers.RescaleAction, or finite low and high)")
