"""Whether simulators in processes of their own give the same steps as in this one."""

from __future__ import annotations

import copy
from time import monotonic
from typing import Any

import numpy as np

from envs.registry import VectorMode, make_vector_env
from envs.testing.play import value_difference
from envs.testing.subject import Trial, adapted_action

_ENVS = 2
_STEPS = 60


def check_subprocess(trial: Trial) -> None:
    """Two simulators step alike in one process and in two spawned ones."""
    one = _steps(trial, "serial", _STEPS)
    other = _steps(trial, "subprocess", len(one) - 1)
    for index, (first, second) in enumerate(zip(one, other, strict=True)):
        text = value_difference(first, second, "")
        if text is not None:
            what = "simulators in processes of their own step otherwise than in one process"
            trial.found(
                "fault", f"{what} (do instances share state, or depend on the process?)", f"step {index}, {text}"
            )
            return
    trial.found("ok", f"{_ENVS} simulators step alike in one process and in spawned ones ({len(one) - 1} steps)")


def _steps(trial: Trial, mode: VectorMode, count: int) -> list[Any]:
    """Observations, rewards and flags of a reset and at most `count` steps."""
    trial.place(f"making {_ENVS} with env.mode={mode}")
    options = {"step_timeout_seconds": 0.0, **trial.subject.options}  # the check has a limit of its own
    env = make_vector_env(trial.subject.name, _ENVS, mode, _ENVS, **options)
    rng, deadline = np.random.default_rng(0), monotonic() + trial.seconds
    try:
        trial.place(f"reset with env.mode={mode}")
        steps = [env.reset(list(range(_ENVS)))]
        while len(steps) <= count and (mode == "subprocess" or monotonic() < deadline):
            trial.place(f"step {len(steps)} with env.mode={mode}")
            steps.append(env.step(np.stack([adapted_action(env.spec.action, rng) for _ in range(_ENVS)])))
            for fault in env.take_faults():
                raise RuntimeError(fault.describe())
    finally:
        env.close()
    return [copy.deepcopy((step.observation, step.reward, step.is_last, step.is_terminal)) for step in steps]
