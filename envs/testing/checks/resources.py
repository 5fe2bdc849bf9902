"""Memory that grows with the steps, and what instances leave open."""

from __future__ import annotations

import gc
import itertools
import os
from pathlib import Path
from time import monotonic

import numpy as np

from envs.testing.subject import Trial, Watched

_STEPS = 6000
_CHUNKS = 6
"""Parts of the steps; the first third warms up."""
_FAULT_BYTES = 4 * 2**20
_NOTE_BYTES = 2**20
_INSTANCES = 3


def check_memory(trial: Trial) -> None:
    """Resident memory after equal numbers of steps, resets included."""
    env = trial.watch()
    env.reset(0)
    chunk = _rate(trial, env)
    sizes = []
    for _ in range(_CHUNKS):
        _steps(env, chunk)
        gc.collect()
        sizes.append(_resident())
    growth = np.diff(sizes[_CHUNKS // 3 - 1 :])
    total, per_step = int(growth.sum()), float(growth.mean()) / chunk
    trial.fact("memory_bytes_per_step", round(per_step, 1))
    steady = bool((growth > 0.25 * growth.mean()).all())
    amount = f"memory grows by {per_step:,.0f} bytes a step ({total / 2**20:.1f} MiB in {chunk * len(growth)} steps)"
    if steady and total >= _FAULT_BYTES:
        trial.found("fault", f"{amount}: something is kept at every step or reset")
    elif steady and total >= _NOTE_BYTES:
        trial.found("note", f"{amount}: watch it in a long run")
    else:
        trial.found("ok", f"memory stays as it is over {chunk * _CHUNKS} steps")


def check_close(trial: Trial) -> None:
    """Several instances made, used and closed: open files, threads and processes that stay."""
    counts = []
    for _ in range(_INSTANCES):
        env = trial.watch()
        env.reset(0)
        env.step(next(env.samples()))
        env.close()
        del env
        gc.collect()
        trial.place("looking for what is left open")
        counts.append(_open())
    leaks = {name: counts[-1][name] - counts[0][name] for name in counts[0]}
    for name, count in leaks.items():
        if count >= _INSTANCES - 1:
            trial.found("fault", f"every instance leaves {count // (_INSTANCES - 1)} {name} after close")
    if all(count < _INSTANCES - 1 for count in leaks.values()):
        trial.found("ok", f"{_INSTANCES} instances one after the other leave nothing open")


def _rate(trial: Trial, env: Watched) -> int:
    """Steps of a chunk, so that all take the time allowed at most."""
    began = monotonic()
    taken = 0
    while monotonic() - began < 0.05 * trial.seconds and taken < _STEPS // _CHUNKS:
        _steps(env, 10)
        taken += 10
    speed = taken / (monotonic() - began)
    return max(10, min(_STEPS // _CHUNKS, int(0.8 * trial.seconds * speed) // _CHUNKS))


def _steps(env: Watched, count: int) -> None:
    for action in itertools.islice(env.samples(), count):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open() -> dict[str, int]:
    own = Path("/proc/self")
    children = sum(
        len((task / "children").read_text().split())
        for task in (own / "task").iterdir()
        if (task / "children").exists()
    )
    return {
        "open files": len(list((own / "fd").iterdir())),
        "threads": len(list((own / "task").iterdir())),
        "processes": children,
    }
