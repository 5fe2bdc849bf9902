"""How episodes end, and what comes after."""

from __future__ import annotations

import itertools
from time import monotonic

from envs.testing.subject import Trial, Watched

_STEPS = 3000
_EPISODES = 20
_FINAL_KEYS = ("final_obs", "final_observation", "terminal_observation")
"""Info keys of environments that reset themselves."""


def check_episodes(trial: Trial) -> None:
    """Ends within a limit of steps, time limits that are called terminations, steps after the end."""
    env = trial.watch()
    limit = env.env.get_wrapper_attr("max_episode_steps") if env.env.has_wrapper_attr("max_episode_steps") else None
    limit = limit or (env.env.spec.max_episode_steps if env.env.spec is not None else None)
    ends: list[tuple[int, bool]] = []  # length, whether terminated
    steps, deadline = 0, monotonic() + trial.seconds
    actions, stale = env.samples(), False
    while steps < _STEPS and len(ends) < _EPISODES and monotonic() < deadline:
        env.reset(len(ends))
        ended = False
        while not ended and steps < _STEPS and monotonic() < deadline:
            _, _, terminated, truncated, info = env.step(next(actions))
            steps += 1
            ended = bool(terminated or truncated)
            if ended:
                ends.append((env.steps, bool(terminated)))
                stale |= any(key in info for key in _FINAL_KEYS)
        if ended and len(ends) == 1:
            _step_after_end(trial, env)
    trial.fact("episodes", len(ends))
    trial.fact("episode_limit", limit)
    if stale:
        text = "it resets itself at an end: the last observation is the first of the next episode"
        trial.found("fault", f"{text}; worldfleet resets, so leave that out")
    _judge(trial, ends, steps, limit)


def _judge(trial: Trial, ends: list[tuple[int, bool]], steps: int, limit: int | None) -> None:
    """What the ends seen say of the time limit."""
    if not ends:
        if limit is None or steps >= limit:
            text = f"no episode ends within {steps} steps: it may be endless, and an evaluation needs an end"
            trial.found("note", f"{text} (max_episode_steps of gymnasium.register truncates)")
        else:
            trial.found("ok", f"no episode ends within {steps} steps; the limit of {limit} truncates")
        return
    terminated = [length for length, terminal in ends if terminal]
    truncated = [length for length, terminal in ends if not terminal]
    at_limit = [length for length in terminated if limit is not None and length >= limit]
    if at_limit and not truncated and len(at_limit) > 1:
        text = f"{len(at_limit)} episodes end at the time limit of {limit} steps as terminated, not truncated"
        trial.found("fault", f"{text}: values of the last states would be learned as 0")
    elif len(terminated) > 2 and len(set(terminated)) == 1 and not truncated and terminated[0] > 1:
        text = f"all {len(terminated)} episodes terminate after {terminated[0]} steps"
        trial.found("note", f"{text}: if that is a time limit, it is to be truncated instead")
    lengths = sorted(length for length, _ in ends)
    text = f"{len(ends)} episodes of {lengths[0]} to {lengths[-1]} steps"
    trial.found("ok", f"{text}: {len(terminated)} terminated, {len(truncated)} truncated")


def _step_after_end(trial: Trial, env: Watched) -> None:
    """What a step does after the last one of an episode; worldfleet takes none."""
    trial.place("a step after the end of an episode")
    try:
        for action in itertools.islice(env.samples(), 2):
            _, _, terminated, truncated, _ = env.env.step(action)
    except Exception as error:  # noqa: BLE001 (a refusal is the best answer)
        trial.found("ok", f"a step after the end is refused ({type(error).__name__})")
        return
    if terminated or truncated:
        trial.found("ok", "a step after the end is ignored or goes on as ended; worldfleet resets first")
    else:
        trial.found("note", "a step after the end starts or continues an episode; worldfleet resets first")
