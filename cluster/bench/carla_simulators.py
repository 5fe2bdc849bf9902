"""Cases of `worldfleet bench env` on the stand-in CARLA server: integration results, never CARLA results.

CPU time is that of client and server together; the driver by rule drives. The peer is the bare client: a control and a
tick of the same world.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.bench.env_simulators import Case

CASES: dict[str, dict[str, Any]] = {
    "carla_traffic stand-in, birdeye 64x64, state, 20 cars": {"observation": ["birdeye", "state"]},
    "carla_traffic stand-in, camera 64x64, lidar, 20 cars": {"observation": ["camera", "lidar"]},
}
"""Name -> options of the environment."""

_CARS = 20
_TIMEOUT = 30.0


def make(name: str) -> Case:
    """The case `name`, with a server of its own, which ends with this process."""
    import carla

    from cluster.bench.env_simulators import Case
    from envs.carla.driver import expert_action
    from envs.registry import make_bare_env

    options = {"vehicles": _CARS, "timeout_seconds": _TIMEOUT, "max_episode_steps": 10_000, "ends_on": ["off_route"]}
    env: Any = make_bare_env("carla_traffic", **options, **CASES[name])
    env.reset(seed=0)
    simulation = env.simulation
    servers = env.server_processes()

    def ours(count: int) -> None:
        for _ in range(count):
            _, _, terminated, truncated, _ = env.step(expert_action(env.episode))
            if terminated or truncated:
                env.reset()

    def bare(count: int) -> None:
        control = carla.VehicleControl(throttle=0.3)
        for _ in range(count):
            simulation.car.apply_control(control)
            simulation.world.tick(_TIMEOUT)

    def clock() -> float:
        return time.process_time() + sum(map(_cpu_seconds, servers))

    return Case(name, ours, "bare carla client: control and tick", bare, clock)


def _cpu_seconds(process: int) -> float:
    """CPU time of all threads of a process."""
    total = 0
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(thread.read_text().split()[0])
    return total * 1e-9
