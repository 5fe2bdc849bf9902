"""Environments that hang in this process are told of."""

from __future__ import annotations

import threading

import numpy as np

from envs.adapters import GymnasiumEnv
from envs.testing.counter import CounterEnv
from envs.vector import SerialVectorEnv
from envs.watch import watch


def test_a_step_that_takes_too_long_is_told_once() -> None:
    waiting, told, seen = threading.Event(), threading.Event(), []

    class Slow(CounterEnv):
        def step(self, action: np.ndarray) -> tuple:
            waiting.wait(20.0)
            return super().step(action)

    def hung(text: str) -> None:
        seen.append(text)
        told.set()
        waiting.set()

    env = SerialVectorEnv([lambda: GymnasiumEnv(CounterEnv(), "counter"), lambda: GymnasiumEnv(Slow(), "counter")])
    watch(env, 0.2, hung)
    env.reset([0, 1])
    assert not told.wait(0.4)  # nothing is at work
    env.step(np.zeros((2, 2), np.float32))
    assert told.is_set()
    assert seen[0].startswith("environment 1 of counter has not come back from a reset or step for 0.2 s")
    watch(env, 0.0, hung)  # any time is allowed
    env.step(np.zeros((2, 2), np.float32))
    assert len(seen) == 1
