"""Environment names and what they stand for. Nothing is imported before it is made."""

from __future__ import annotations

import importlib
import os
from functools import partial
from typing import Any, Literal, get_args

from envs.names import unknown_name
from envs.specs import Env, EnvSpec, VectorEnv

VectorMode = Literal["serial", "subprocess"]

ENVIRONMENTS = {
    "nav3d": "envs.adapters:make_gymnasium",
    "nav3d_image": "envs.adapters:make_gymnasium",
    "nav3d_creature": "envs.adapters:make_gymnasium",
    "car_racing": "envs.car_racing.factory:make",
    "car_racing_discrete": "envs.car_racing.factory:make",
}
"""Name -> "module:factory"; the factory takes (name, **options)."""

FAMILIES = {
    "gym": "envs.adapters:make_gymnasium",
    "dmc": "envs.dmc:make",
}
"""Prefix of "prefix:id" names -> factory, as above."""

POOLS = {
    "car_racing": "envs.car_racing.factory",
    "car_racing_discrete": "envs.car_racing.factory",
}
"""Names with a choice of backends for many environments -> module with the functions `make_pool`, which may return None
to have them made one by one, `backend`, which says what will be used, and `spec`, which needs none of them."""


def make_env(name: str, **options: Any) -> Env:
    """The environment `name` with its own `options`.

    Raises:
        ValueError: For an unknown name or option (with the nearest one), or an invalid value.
    """
    family, colon, _ = name.partition(":")
    target = FAMILIES.get(family) if colon else ENVIRONMENTS.get(name)
    if target is None:
        raise ValueError(unknown_name("environment", name, [*ENVIRONMENTS, *(f"{f}:<id>" for f in FAMILIES)]))
    module, _, factory = target.partition(":")
    env: Env = getattr(importlib.import_module(module), factory)(name, **options)
    return env


def is_family_name(name: str) -> bool:
    """Whether `name` is "prefix:id" with the prefix of a family."""
    family, colon, _ = name.partition(":")
    return bool(colon) and family in FAMILIES


def vector_backend(name: str, **options: Any) -> str | None:
    """The package that `make_vector_env` would choose to step `name`, None where there is no choice.

    Raises:
        ValueError: For an unknown or invalid option, or missing packages.
    """
    if name not in POOLS:
        return None
    text: str = importlib.import_module(POOLS[name]).backend(name, **options)
    return text


def make_vector_env(
    name: str, num_envs: int, mode: VectorMode = "serial", num_workers: int | None = None, **options: Any
) -> VectorEnv:
    """`num_envs` equal environments stepped together.

    Args:
        name: As for `make_env`.
        num_envs: How many.
        mode: "serial" steps them in this process, "subprocess" in `num_workers` processes, or in as many threads where
            the backend steps them all in one call.
        num_workers: Workers of mode "subprocess"; None takes one per core, at most one per environment.
        options: As for `make_env`.

    Raises:
        ValueError: As for `make_env`, and for an invalid `num_envs`, `mode` or `num_workers`.
    """
    from envs.vector import SerialVectorEnv, SubprocessVectorEnv

    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if mode not in get_args(VectorMode):
        raise ValueError(unknown_name("vector mode", mode, get_args(VectorMode)))
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    if name in POOLS:
        num_threads = min(num_workers or len(os.sched_getaffinity(0)), num_envs) if mode == "subprocess" else 1
        pool: VectorEnv | None = importlib.import_module(POOLS[name]).make_pool(name, num_envs, num_threads, **options)
        if pool is not None:
            return pool
    factories = [partial(make_env, name, **options)] * num_envs
    return SerialVectorEnv(factories) if mode == "serial" else SubprocessVectorEnv(factories, num_workers)


def env_spec(name: str, **options: Any) -> EnvSpec:
    """The spec of `make_env(name, **options)`."""
    if name in POOLS:
        spec: EnvSpec = importlib.import_module(POOLS[name]).spec(name, **options)
        return spec
    env = make_env(name, **options)
    env.close()
    return env.spec
