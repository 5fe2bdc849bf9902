"""How long steps and resets take, and their tail."""

from __future__ import annotations

from time import monotonic

import numpy as np

from envs.testing.subject import Trial

_STEPS = 2000
_WARM_UP = 5
_OUTLIER = 10.0
"""Times the median, and at least a few milliseconds more, that make a step an outlier."""
_OUTLIER_SECONDS = 0.005


def check_timing(trial: Trial) -> None:
    """Median, 99th percentile and maximum of the bare step; the longest ones by their place."""
    env = trial.watch()
    env.reset(0)
    resets = [env.last_seconds]
    steps: list[float] = []
    places: list[str] = []
    actions, deadline = env.samples(), monotonic() + trial.seconds
    while len(steps) < _STEPS + _WARM_UP and monotonic() < deadline:
        _, _, terminated, truncated, _ = env.step(next(actions))
        steps.append(env.last_seconds)
        places.append(env.where)
        if terminated or truncated:
            env.reset()
            resets.append(env.last_seconds)
    env.close()
    seconds = np.array(steps[_WARM_UP:] or steps)
    median, p99, longest = np.median(seconds), np.percentile(seconds, 99), seconds.max()
    for name, value in (("median", median), ("p99", p99), ("max", longest)):
        trial.fact(f"step_ms_{name}", round(1e3 * float(value), 4))
    trial.fact("reset_ms_median", round(1e3 * float(np.median(resets)), 4))
    trial.fact("reset_ms_max", round(1e3 * max(resets), 4))
    trial.found(
        "ok", f"a step takes {_ms(median)} (median of {len(seconds)}), {_ms(p99)} (p99), {_ms(longest)} at most"
    )
    trial.found("ok", f"a reset takes {_ms(np.median(resets))} (median of {len(resets)}), {_ms(max(resets))} at most")
    slow = np.flatnonzero(seconds > max(_OUTLIER * median, median + _OUTLIER_SECONDS))
    if len(slow):
        worst = int(slow[np.argmax(seconds[slow])])
        share = f"{len(slow)} of {len(seconds)} steps take over {_OUTLIER:g} times the median"
        where = places[worst + len(steps) - len(seconds)]
        trial.found("note", f"{share}, the longest {_ms(seconds[worst])}: every environment of a batch waits", where)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
