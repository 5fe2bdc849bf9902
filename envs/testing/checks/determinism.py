"""Whether equal seeds and actions give equal steps, and whether an episode can be played again."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np

from envs.testing.play import Played, difference, play, value_difference
from envs.testing.subject import Trial, Watched, adapted_action

_STEPS = 200
_SEED = 12


def check_determinism(trial: Trial) -> None:
    """Two instances, the same seed and actions, then `reset(seed)` again; then another seed.

    The global generators of `random` and NumPy stand elsewhere each time.
    """
    one, other = trial.watch(), trial.watch()
    first = _record(one, _SEED, trial.seconds / 4)
    actions = [played.action for played in first if played.action is not None]
    second = _record(other, _SEED, trial.seconds, actions, disturb=1)
    same = _compare(trial, "two instances with the same seed and actions", first, second)
    again = _record(one, _SEED, trial.seconds, actions, disturb=2)
    same &= _compare(trial, "two resets with the same seed, and the same actions,", first, again)
    changed = _record(one, _SEED + 1, trial.seconds, actions, disturb=3)
    if same:
        trial.found("ok", f"{len(actions)} steps are the same again, in another instance and after reset(seed)")
    if all(difference(a, b) is None for a, b in zip(first, changed, strict=False)):
        trial.found("note", f"another seed changes nothing in {len(actions)} steps")
    trial.fact("deterministic", same)


def check_replay(trial: Trial) -> None:
    """Whether another instance plays an episode again from its origin, as a run that resumes does."""
    env, other = trial.adapt(), trial.adapt()
    rng, deadline = np.random.default_rng(0), monotonic() + trial.seconds
    trial.place(f"reset(seed={_SEED}) and a step")
    env.reset(_SEED)
    env.step(adapted_action(env.spec.action, rng))
    trial.place("reset() of the second episode")
    episode = [copy.deepcopy(env.reset())]
    origin = copy.deepcopy(env.origin)
    other.reset(_SEED + 5)
    trial.place("redo of the second episode")
    repeated = [copy.deepcopy(other.redo(origin))]
    while len(episode) <= _STEPS and monotonic() < deadline and not (episode[-1].is_last or repeated[-1].is_last):
        trial.place(f"step {len(episode)} of the second episode, played twice")
        action = adapted_action(env.spec.action, rng)
        episode.append(copy.deepcopy(env.step(action)))
        repeated.append(copy.deepcopy(other.step(action)))
    for index, (one, two) in enumerate(zip(episode, repeated, strict=True)):
        text = value_difference(
            (one.observation, one.reward, one.is_last), (two.observation, two.reward, two.is_last), ""
        )
        if text is not None:
            trial.fact("exact_replay", False)
            note = "an episode cannot be played again, so a run that resumes opens new streams"
            trial.found("note", f"{note} (are all random numbers drawn from self.np_random?)", f"step {index}, {text}")
            return
    trial.fact("exact_replay", True)
    trial.found("ok", f"an episode can be played again in another instance ({len(episode) - 1} steps)")


def _record(
    env: Watched, seed: int, seconds: float, actions: Sequence[Any] | None = None, disturb: int = 0
) -> list[Played]:
    """What happens under these actions, or under random ones."""
    random.seed(disturb)
    np.random.seed(disturb)  # noqa: NPY002 (environments that draw from it are what is looked for)
    return [copy.deepcopy(played) for played in play(env, _STEPS, seconds, seed, actions)]


def _compare(trial: Trial, what: str, one: Sequence[Played], other: Sequence[Played]) -> bool:
    """Whether two recordings are equal as far as both go; says where they are not."""
    for index, (first, second) in enumerate(zip(one, other, strict=False)):
        text = difference(first, second)
        if text is not None:
            trial.found(
                "fault", f"{what} give different steps (draw from self.np_random alone)", f"step {index}, {text}"
            )
            return False
    return True
