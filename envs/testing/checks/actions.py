"""Whether the whole range of actions is accepted, and whether actions do anything."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.adapters import GymnasiumEnv
from envs.testing.play import difference, play
from envs.testing.subject import Trial, Watched, bare_env

_CORNERS = 64
_EFFECT_STEPS = 30


def check_actions(trial: Trial) -> None:
    """Corners of the box or all ids are taken; what float32 makes of a float64 box; whether actions have an effect."""
    env = trial.watch()
    space = env.env.action_space
    extremes = _extremes(space)
    env.reset(0)
    for action in extremes:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    if isinstance(space, spaces.Box) and extremes:
        trial.found("ok", f"{len(extremes)} corners of the box are accepted")
        _check_rounding(trial, space)
    elif isinstance(space, spaces.Discrete):
        trial.found("ok", f"{len(extremes)} ids are accepted, {extremes[0]} to {extremes[-1]}")
    if len(extremes) > 1:
        _check_effect(trial, env, extremes)


def _extremes(space: spaces.Space[Any]) -> list[Any]:
    """Corners of a box, all of them or the lowest, the highest and random ones; ids, all or the first and last."""
    if isinstance(space, spaces.Discrete):
        ids = [np.int64(int(space.start) + index) for index in range(int(space.n))]
        return ids if len(ids) <= _CORNERS else [*ids[: _CORNERS // 2], *ids[-_CORNERS // 2 :]]
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        return []
    size = int(np.prod(space.shape))
    if 2**size <= _CORNERS:
        choices = np.array(list(itertools.product((False, True), repeat=size)), bool).reshape(-1, size)
    else:
        choices = np.random.default_rng(0).random((_CORNERS, size)) < 0.5
        choices[0], choices[-1] = False, True
    return [np.where(choice.reshape(space.shape), space.high, space.low).astype(space.dtype) for choice in choices]


def _check_rounding(trial: Trial, space: spaces.Box) -> None:
    """Policies act in float32: their corners, as the adapter hands them over, must lie inside a float64 box."""
    if space.dtype == np.float32:
        return
    rounded = [bound.astype(np.float32).astype(space.dtype) for bound in (space.low, space.high)]
    outside = (rounded[0] < space.low) | (rounded[1] > space.high)
    if not outside.any():
        return
    index = int(np.flatnonzero(outside.ravel())[0])
    text = f"the box is {space.dtype} and float32 rounds its bounds outwards in dimension {index}"
    text += f" ([{space.low.flat[index]}, {space.high.flat[index]}])"
    handed_over = _handed_over(trial, [bound.astype(np.float32) for bound in (space.low, space.high)])
    if all(space.contains(action) for action in handed_over):
        trial.found("note", f"{text}; worldfleet keeps actions inside")
    else:
        trial.found("fault", f"{text}, so an action at the bound lies outside: declare a float32 box")


def _handed_over(trial: Trial, actions: list[NDArray[np.float32]]) -> list[Any]:
    """What reaches the environment of these actions of a policy."""
    bare = bare_env(trial.subject.name, trial.subject.options)
    env = GymnasiumEnv(bare, trial.subject.name)
    seen: list[Any] = []
    base: Any = bare.unwrapped
    step = base.step

    def record(action: Any) -> Any:
        seen.append(np.copy(action))
        return step(np.clip(action, base.action_space.low, base.action_space.high))

    base.step = record
    for action in actions:
        env.reset(0)
        trial.place(f"a step with the action {action.tolist()} of a policy")
        env.step(action)
    return seen


def _check_effect(trial: Trial, env: Watched, extremes: list[Any]) -> None:
    """Note an environment in which the first and the last extreme do the same."""
    first, last = (
        [copy.deepcopy(played) for played in play(env, _EFFECT_STEPS, trial.seconds / 2, 3, itertools.repeat(action))]
        for action in (extremes[0], extremes[-1])
    )
    if len(first) == len(last) and all(difference(a, b) is None for a, b in zip(first, last, strict=True)):
        pair = " and ".join(str(np.asarray(action).tolist()) for action in (extremes[0], extremes[-1]))
        trial.found("note", f"actions {pair} do the same for {_EFFECT_STEPS} steps")
