"""How long steps and resets take, and their tail."""

from __future__ import annotations

import resource
from time import monotonic

import numpy as np
from numpy.typing import NDArray

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
    preempted: list[bool] = []
    actions, deadline = env.samples(), monotonic() + trial.seconds
    while len(steps) < _STEPS + _WARM_UP and monotonic() < deadline:
        switches = _preemptions()
        _, _, terminated, truncated, _ = env.step(next(actions))
        steps.append(env.last_seconds)
        places.append(env.where)
        preempted.append(_preemptions() > switches)
        if terminated or truncated:
            env.reset()
            resets.append(env.last_seconds)
    kept = ~np.array(preempted)
    kept[:_WARM_UP] = False
    if 2 * kept.sum() < len(steps):
        kept[:] = True
    _report(trial, np.array(steps)[kept], [place for place, keep in zip(places, kept, strict=True) if keep], resets)


def _report(trial: Trial, seconds: NDArray[np.float64], places: list[str], resets: list[float]) -> None:
    median, p99, longest = float(np.median(seconds)), float(np.percentile(seconds, 99)), float(seconds.max())
    for name, value in (("median", median), ("p99", p99), ("max", longest)):
        trial.fact(f"step_ms_{name}", round(1e3 * value, 4))
    reset, longest_reset = float(np.median(resets)), max(resets)
    trial.fact("reset_ms_median", round(1e3 * reset, 4))
    trial.fact("reset_ms_max", round(1e3 * longest_reset, 4))
    trial.found(
        "ok", f"a step takes {_ms(median)} (median of {len(seconds)}), {_ms(p99)} (p99), {_ms(longest)} at most"
    )
    trial.found("ok", f"a reset takes {_ms(reset)} (median of {len(resets)}), {_ms(longest_reset)} at most")
    slow = np.flatnonzero(seconds > max(_OUTLIER * median, median + _OUTLIER_SECONDS))
    if len(slow):
        worst = int(slow[np.argmax(seconds[slow])])
        share = f"{len(slow)} of {len(seconds)} steps take over {_OUTLIER:g} times the median"
        text = f"{share}, the longest {_ms(seconds[worst])}: every environment of a batch waits"
        trial.found("note", text, places[worst])


def _preemptions() -> int:
    """How often other work has taken the processor from this thread; such steps say nothing of the environment."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
