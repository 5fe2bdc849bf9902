"""The factories behind the names `carla_*`. Nothing of CARLA is imported before an environment is made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from envs.carla.config import CarlaConfig
from envs.options import config_from_options
from envs.specs import EnvSpec

if TYPE_CHECKING:
    from envs.carla.env import CarlaEnv

logger = logging.getLogger(__name__)

STANDIN = "worldfleet stand-in server (integration results, not CARLA results)"


def make(name: str, **options: Any) -> CarlaEnv:
    """The environment `name`, with its server.

    Raises:
        ValueError: For an unknown option (with the nearest name), an invalid value, or a server that cannot be used.
    """
    config = config_from_options(CarlaConfig, options)
    from envs.carla.env import CarlaEnv

    return CarlaEnv(name, config)


def spec(name: str, **options: Any) -> EnvSpec:
    """The spec, without a server.

    Raises:
        ValueError: For an unknown option (with the nearest name) or an invalid value.
    """
    return config_from_options(CarlaConfig, options).spec(name)


def backend(name: str, **options: Any) -> str:
    """What `make` would talk to.

    Raises:
        ValueError: As `spec`.
    """
    config = config_from_options(CarlaConfig, options)
    if config.server_kind == "standin":
        return STANDIN
    if config.server_kind == "program":
        return f"CARLA started from {config.program}"
    return f"CARLA server at {config.host or '127.0.0.1'}:{config.port or 2000}"
