"""Environment steps per second of the actors against the bare environment loop of the same run.

The bare loop only calls `step` of the same vector environment with ready actions. Its processes and the
actors take turns, round by round, so both see the same machine; the ratio is the median over rounds of
the paired rates.
"""

from __future__ import annotations

import multiprocessing as mp
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import numpy as np

from actors.random_policy import RandomPolicy
from actors.rollout import RolloutLoop
from cluster.authentication import guarded
from cluster.bench.row import BenchRow
from envs.specs import VectorEnv

ENV, NUM_ENVS, NUM_ACTORS, NUM_SHARDS = "nav3d", 16, 2, 2
TICKS = 64 * 16  # per round and environment
LEASE_TICKS = 64 * 16  # ticks of one call of a rollout actor
ROUNDS = 15
SPLIT = 4  # rounds in this process are shorter and more: other processes disturb the pairs less
MakeEnv = Callable[[], VectorEnv]


def run(make_env: MakeEnv | None = None, rounds: int = ROUNDS, ticks: int = TICKS) -> Iterator[BenchRow]:
    """Measure the rollout loop in this process, then actors that push into shards.

    Args:
        make_env: Builds one vector environment; nav3d with 16 environments if None.
        rounds: Rounds of each side.
        ticks: Vector steps per round, a multiple of 1024.
    """
    if rounds < 1 or ticks < LEASE_TICKS or ticks % LEASE_TICKS:
        raise ValueError(f"rounds must be positive and ticks a multiple of {LEASE_TICKS}, got {rounds} and {ticks}")
    make_env = make_env or partial(_make_env, ENV, NUM_ENVS)
    name = make_env().spec.name
    loop, bare = _in_process(make_env, rounds, ticks)
    yield _row(f"{name} rollout loop, 1 process", loop, bare, 1)
    actors, processes = _on_ray(make_env, rounds, ticks)
    yield _row(f"{name} {NUM_ACTORS} rollout actors, {NUM_SHARDS} shards", actors, processes, NUM_ACTORS)


def _make_env(name: str, num_envs: int) -> VectorEnv:
    from envs.registry import make_vector_env

    return make_vector_env(name, num_envs, mode="serial")


def _row(case: str, ours: list[float], theirs: list[float], threads: int) -> BenchRow:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    rates = statistics.median(ours), statistics.median(theirs)
    return BenchRow("cluster", case, rates[0], "steps/s", threads, "bare env loop", rates[1], ratio)


class _BareLoop:
    """The environment alone, with actions drawn beforehand."""

    def __init__(self, make_env: MakeEnv, seed: int) -> None:
        self._env = make_env()
        step = self._env.reset(range(seed, seed + self._env.num_envs))
        policy = RandomPolicy(self._env.spec.action)
        carry, self._actions = policy.initial(np.arange(self._env.num_envs, dtype=np.uint64)), []
        for _ in range(64):
            output = policy.act(step, carry, True)
            carry = output.carry
            self._actions.append(output.action)

    def run(self, ticks: int) -> int:
        for tick in range(ticks):
            self._env.step(self._actions[tick % 64])
        return ticks * self._env.num_envs


def _make_loop(make_env: MakeEnv, actor: int = 0) -> RolloutLoop:
    env = make_env()
    return RolloutLoop(env, RandomPolicy(env.spec.action), seed=0, actor=actor)


def _rate(work: Callable[[], int]) -> float:
    start = perf_counter()
    steps = work()
    return steps / (perf_counter() - start)


def _in_process(make_env: MakeEnv, rounds: int, ticks: int) -> tuple[list[float], list[float]]:
    """Rates of the rollout loop and of the bare loop."""
    loop, bare = _make_loop(make_env), _BareLoop(make_env, seed=0)
    short = ticks // SPLIT
    return _alternate(lambda: loop.collect(short).steps, lambda: bare.run(short), rounds * SPLIT)


def _alternate(ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> tuple[list[float], list[float]]:
    ours(), theirs()  # warm up
    rates: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            rates[side].append(_rate((ours, theirs)[side]))
    return rates


def _serve_bare(make_env: MakeEnv, seed: int, pipe: Connection) -> None:
    loop = _BareLoop(make_env, seed)
    while True:
        ticks = pipe.recv()
        if not ticks:
            break
        pipe.send(loop.run(ticks))


@contextmanager
def _bare_processes(make_env: MakeEnv, count: int) -> Iterator[list[Connection]]:
    context = mp.get_context("spawn")
    pipes, children = [], []
    for index in range(count):
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve_bare, args=(make_env, 1000 * index, theirs), daemon=True)
        child.start()
        pipes.append(ours)
        children.append(child)
    try:
        yield pipes
    finally:
        for pipe in pipes:
            pipe.send(0)
        for child in children:
            child.join(10)


def _on_ray(make_env: MakeEnv, rounds: int, ticks: int) -> tuple[list[float], list[float]]:
    """Rates of the rollout actors and of as many bare processes."""
    with _bare_processes(make_env, NUM_ACTORS) as pipes, _rollout_actors(make_env) as actors:
        return _alternate(lambda: _run_actors(actors, ticks), lambda: _run_bare(pipes, ticks), rounds)


def _run_bare(pipes: list[Connection], ticks: int) -> int:
    for pipe in pipes:
        pipe.send(ticks)
    return sum(pipe.recv() for pipe in pipes)


def _run_actors(actors: list[Any], ticks: int) -> int:
    """Steps that the shards have acknowledged."""
    import ray

    leases = [actor.run.remote(LEASE_TICKS) for _ in range(ticks // LEASE_TICKS) for actor in actors]
    flushes = [actor.flush.remote() for actor in actors]
    return sum(int(summary.acknowledged) for summary in ray.get(leases)) + sum(map(int, ray.get(flushes)))


@contextmanager
def _rollout_actors(make_env: MakeEnv) -> Iterator[list[Any]]:
    import ray

    from actors.replay.config import ReplayConfig
    from actors.replay.service import ReplayShardActor
    from actors.service import RolloutActor

    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(guarded())
            ray.init(address="local", num_cpus=NUM_ACTORS, include_dashboard=False, log_to_driver=False)
            stack.callback(ray.shutdown)
        config = ReplayConfig(num_shards=NUM_SHARDS, max_bytes=256 << 20)
        shards = [ray.remote(ReplayShardActor).options(num_cpus=0).remote(config, i, i) for i in range(NUM_SHARDS)]
        actor = ray.remote(RolloutActor).options(num_cpus=0)
        yield [actor.remote(partial(_make_loop, make_env, i), shards, actor=i) for i in range(NUM_ACTORS)]
