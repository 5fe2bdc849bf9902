"""How fast the environments step on one core, beside the least that the simulator itself needs for the same work.

Every case alternates with its peer in short turns, so both see the same load of the machine, and rates are per second
of CPU time, so they say what one core gives. Actions are drawn beforehand; episodes are reset as they end, within the
measured time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from cluster.bench import env_simulators
from cluster.bench.row import BenchRow
from envs.nav3d.arena import Arena
from envs.nav3d.config import Nav3DConfig
from envs.nav3d.layout import FIXED_LAYOUT
from envs.registry import make_bare_env, make_vector_env

Loop = Callable[[int], None]
"""Does so many steps."""

_TURNS = 6
_CHUNK = 64
_NUM_ENVS = 8
_IMAGE_SIZE = 64


def run(seconds: float = 2.0) -> Iterator[BenchRow]:
    """Steps per CPU-second of the bare environments and of the serial vector environment.

    Args:
        seconds: CPU time for each case, its peer included, s.
    """
    physics, rays = _physics_loop(), _rays_loop()
    cases: list[tuple[str, str, dict[str, Any], str, Loop]] = [
        ("nav3d", "nav3d", {}, "bare mj_step", physics),
        ("nav3d with lidar", "nav3d", {"layout": "random"}, "bare mj_step", physics),
        ("nav3d_creature", "nav3d_creature", {}, "bare mj_step", physics),
        ("nav3d_image top-down", "nav3d_image", {}, "bare mj_multiRay 64x64", rays),
        ("nav3d_image first-person", "nav3d_image", {"view": "first_person"}, "bare mj_multiRay 64x64", rays),
    ]
    for case, name, options, peer, peer_loop in cases:
        yield _compare(case, _env_loop(name, options), peer, peer_loop, seconds)
    for name in ("nav3d", "nav3d_image"):
        case = f"{name} x{_NUM_ENVS} serial vector"
        yield _compare(case, _vector_loop(name), f"{name} bare loop", _env_loop(name, {}), seconds)
    for foreign in env_simulators.cases():
        loops = foreign.ours, foreign.peer, foreign.theirs
        yield _compare(foreign.name, *loops, seconds, env_simulators.CHUNK, foreign.clock)


def _compare(
    case: str,
    ours: Loop,
    peer: str,
    theirs: Loop,
    seconds: float,
    chunk: int = _CHUNK,
    clock: Callable[[], float] = time.process_time,
) -> BenchRow:
    """Median rates of both loops over alternating turns."""
    ours(chunk)
    theirs(chunk)
    turn = seconds / _TURNS / 2
    rates = np.array([[_rate(loop, turn, chunk, clock) for loop in (ours, theirs)] for _ in range(_TURNS)])
    value, peer_value = np.median(rates, axis=0).tolist()
    return BenchRow("env", case, value, "steps/cpu-s", 1, peer, peer_value, value / peer_value)


def _rate(loop: Loop, seconds: float, chunk: int, clock: Callable[[], float]) -> float:
    """Steps per second of CPU time of all threads, over `seconds` of it."""
    start = now = clock()
    count = 0
    while now - start < seconds:
        loop(chunk)
        count += chunk
        now = clock()
    return count / (now - start)


def _actions(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, (_CHUNK, *shape, 3)).astype(np.float32)


def _env_loop(name: str, options: dict[str, Any]) -> Loop:
    env = make_bare_env(name, **options)
    env.reset(seed=0)
    actions = _actions()

    def loop(count: int) -> None:
        for action in actions[:count]:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return loop


def _vector_loop(name: str) -> Loop:
    env = make_vector_env(name, _NUM_ENVS)
    env.reset(range(_NUM_ENVS))
    actions = _actions(_NUM_ENVS)

    def loop(count: int) -> None:
        for action in actions[: count // _NUM_ENVS]:
            env.step(action)

    return loop


def _physics_loop() -> Loop:
    """The physics of a step and nothing else."""
    config = Nav3DConfig()
    arena = _arena(config)
    model, data, actions = arena.model, arena.data, _actions()

    def loop(count: int) -> None:
        for action in actions[:count]:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, config.substeps)

    return loop


def _rays_loop() -> Loop:
    """The rays of one picture from above and nothing else."""
    arena = _arena(Nav3DConfig())
    slope = np.linspace(-0.5, 0.5, _IMAGE_SIZE)
    right, up = np.meshgrid(slope, slope)
    rays = np.stack([right, up, -np.ones_like(right)], axis=-1).reshape(-1, 3)
    rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).ravel()
    origin = np.array([0.0, 0.0, 14.0])
    count_rays = _IMAGE_SIZE**2
    geoms, distances = np.empty(count_rays, np.int32), np.empty(count_rays, np.float64)

    def loop(count: int) -> None:
        for _ in range(count):
            mujoco.mj_multiRay(
                arena.model, arena.data, origin, rays, None, True, -1, geoms, distances, None, count_rays, 100.0
            )

    return loop


def _arena(config: Nav3DConfig) -> Arena:
    arena = Arena(config)
    arena.place(FIXED_LAYOUT, np.array([-4.0, 0.0, 1.0]), np.array([-4.0, 4.0, 1.0]))
    return arena
