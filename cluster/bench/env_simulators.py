"""Cases of `worldfleet bench env` on simulators of others: our environment beside the bare one it drives.

The bare environments give their own observations: 96 x 96 pictures for CarRacing, a dict of arrays for dm_control. Both
sides take the same actions and start new episodes within the measured time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from cluster.bench import carla_simulators
from envs.options import has_extra
from envs.registry import env_spec, make_vector_env
from envs.specs import ArraySpec

logger = logging.getLogger(__name__)

Loop = Callable[[int], None]
"""Does so many steps."""

CHUNK = 16
"""Steps that a loop is asked for at a time."""
_NUM_ENVS = 8


@dataclass(frozen=True)
class Case:
    """What to measure against what."""

    name: str
    ours: Loop
    peer: str
    theirs: Loop
    clock: Callable[[], float] = time.process_time  # CPU time of all that works for it, s


def cases() -> Iterator[Case]:
    """Every case whose simulator is installed, made when it is asked for."""
    makers = {
        "car_racing": ("car-racing", _car_racing),
        f"car_racing x{_NUM_ENVS} envpool": ("envpool", _car_racing_pool),
        "dmc:walker-walk": ("dmc", _walker),
        **{name: ("carla", carla_simulators.make) for name in carla_simulators.CASES},
    }
    for name, (extra, make) in makers.items():
        if has_extra(extra):
            yield make(name)
        else:
            logger.warning("%s skipped: the extra %r is not installed", name, extra)


def _car_racing(name: str) -> Case:
    env: gym.Env[Any, Any] = gym.make("CarRacing-v3").unwrapped
    actions = _actions(env_spec("car_racing").action)
    env.reset(seed=0)

    def bare(count: int) -> None:
        for action in actions[:count]:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return Case(name, _vector_loop("car_racing", 1, backend="gymnasium"), "bare gymnasium CarRacing-v3", bare)


def _car_racing_pool(name: str) -> Case:
    import envpool

    env = envpool.make("CarRacing-v3", env_type="gymnasium", num_envs=_NUM_ENVS, num_threads=1, seed=0)
    actions = _actions(env_spec("car_racing").action, _NUM_ENVS)
    env.reset()

    def bare(count: int) -> None:
        for action in actions[: count // _NUM_ENVS]:
            env.step(action)

    return Case(name, _vector_loop("car_racing", _NUM_ENVS, backend="envpool"), "bare envpool CarRacing-v3", bare)


def _walker(name: str) -> Case:
    from envs.dmc import import_suite

    env = import_suite().load("walker", "walk", task_kwargs={"random": 0})
    actions = _actions(env_spec(name).action)
    env.reset()

    def bare(count: int) -> None:
        for action in actions[:count]:
            env.step(action)  # starts the next episode by itself

    return Case(name, _vector_loop(name, 1), "bare dm_control", bare)


def _vector_loop(name: str, num_envs: int, **options: Any) -> Loop:
    env = make_vector_env(name, num_envs, **options)
    env.reset(range(num_envs))
    actions = _actions(env.spec.action, num_envs)

    def loop(count: int) -> None:
        for action in actions[: count // num_envs]:
            env.step(action)

    return loop


def _actions(spec: ArraySpec, *batch: int) -> NDArray[np.float32]:
    """Uniform actions [CHUNK, *batch, *spec.shape]."""
    low, high = spec.bounds()
    return np.random.default_rng(0).uniform(low, high, (CHUNK, *batch, *spec.shape)).astype(np.float32)
