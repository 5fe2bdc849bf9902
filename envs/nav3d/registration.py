"""Gymnasium ids of the navigation environments, and the factories behind their short names.

Importing this module registers the ids; MuJoCo is imported only when one of them is made.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from envs.nav3d.config import Nav3DConfig, Nav3DCreatureConfig, Nav3DImageConfig
from envs.options import config_from_options
from envs.specs import EnvSpec

CONFIGS = {"nav3d": Nav3DConfig, "nav3d_image": Nav3DImageConfig, "nav3d_creature": Nav3DCreatureConfig}

GYMNASIUM_IDS = {
    "nav3d": "worldfleet/Nav3D-v0",
    "nav3d_image": "worldfleet/Nav3DImage-v0",
    "nav3d_creature": "worldfleet/Nav3DCreature-v0",
}


def make(name: str, **options: Any) -> gym.Env[Any, Any]:
    """The Gymnasium environment `name` ("nav3d", "nav3d_image" or "nav3d_creature") with config `options`.

    Raises:
        ValueError: For an unknown option (with the nearest name) or an invalid value.
    """
    from envs.nav3d.creature import Nav3DCreatureEnv
    from envs.nav3d.env import Nav3DEnv
    from envs.nav3d.image import Nav3DImageEnv

    config = _config(name, options)
    if isinstance(config, Nav3DImageConfig):
        return Nav3DImageEnv(config)
    if isinstance(config, Nav3DCreatureConfig):
        return Nav3DCreatureEnv(config)
    return Nav3DEnv(config)


def spec(name: str, **options: Any) -> EnvSpec:
    """The spec of `name`, without MuJoCo.

    Raises:
        ValueError: As `make`.
    """
    return _config(name, options).spec(name)


def _config(name: str, options: dict[str, Any]) -> Nav3DConfig:
    return config_from_options(CONFIGS[name], options)


def register() -> None:
    """Register the ids with Gymnasium; a second call changes nothing."""
    classes = {
        "nav3d": "env:Nav3DEnv",
        "nav3d_image": "image:Nav3DImageEnv",
        "nav3d_creature": "creature:Nav3DCreatureEnv",
    }
    for name, gymnasium_id in GYMNASIUM_IDS.items():
        if gymnasium_id not in gym.registry:
            gym.register(gymnasium_id, entry_point=f"envs.nav3d.{classes[name]}")


register()
