"""Gymnasium ids of the navigation environments, and the factories behind their short names.

Importing this module registers the ids; MuJoCo is imported only when one of them is made.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

GYMNASIUM_IDS = {
    "nav3d": "worldfleet/Nav3D-v0",
    "nav3d_image": "worldfleet/Nav3DImage-v0",
    "nav3d_creature": "worldfleet/Nav3DCreature-v0",
}


def make_gymnasium_env(name: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
    """The Gymnasium environment `name` ("nav3d", "nav3d_image" or "nav3d_creature") with config `options`.

    Raises:
        ValueError: For an unknown option (with the nearest name) or an invalid value.
    """
    from envs.nav3d import config
    from envs.nav3d.creature import Nav3DCreatureEnv
    from envs.nav3d.env import Nav3DEnv
    from envs.nav3d.image import Nav3DImageEnv
    from envs.options import config_from_options

    if name == "nav3d_image":
        return Nav3DImageEnv(config_from_options(config.Nav3DImageConfig, options))
    if name == "nav3d_creature":
        return Nav3DCreatureEnv(config_from_options(config.Nav3DCreatureConfig, options))
    return Nav3DEnv(config_from_options(config.Nav3DConfig, options))


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
