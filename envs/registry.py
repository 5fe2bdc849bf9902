"""Environment names and what they stand for. Nothing is imported before it is made."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any, Literal

from envs.names import unknown_name
from envs.specs import Env, EnvSpec, VectorEnv

VectorMode = Literal["serial", "subprocess"]

ENVIRONMENTS = {
    "nav3d": "envs.adapters:make_gymnasium",
    "nav3d_image": "envs.adapters:make_gymnasium",
    "nav3d_creature": "envs.adapters:make_gymnasium",
}
"""Name -> "module:factory"; the factory takes (name, **options)."""

FAMILIES = {
    "gym": "envs.adapters:make_gymnasium",
}
"""Prefix of "prefix:id" names -> factory, as above."""


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


def make_vector_env(
    name: str, num_envs: int, mode: VectorMode = "serial", num_workers: int | None = None, **options: Any
) -> VectorEnv:
    """`num_envs` equal environments stepped together.

    Args:
        name: As for `make_env`.
        num_envs: How many.
        mode: "serial" steps them in this process, "subprocess" in `num_workers` processes.
        num_workers: Processes of mode "subprocess"; None takes one per core, at most one per environment.
        options: As for `make_env`.

    Raises:
        ValueError: As for `make_env`, and for an invalid `num_envs`, `mode` or `num_workers`.
    """
    from envs.vector import SerialVectorEnv, SubprocessVectorEnv

    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    factories = [partial(make_env, name, **options)] * num_envs
    if mode == "serial":
        return SerialVectorEnv(factories)
    if mode == "subprocess":
        return SubprocessVectorEnv(factories, num_workers)
    raise ValueError(unknown_name("vector mode", mode, ("serial", "subprocess")))


def env_spec(name: str, **options: Any) -> EnvSpec:
    """The spec of `make_env(name, **options)`."""
    env = make_env(name, **options)
    env.close()
    return env.spec
