"""The factories behind the names `car_racing` and `car_racing_discrete`."""

from __future__ import annotations

import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any

from envs.car_racing.config import CarRacingConfig
from envs.options import config_from_options, has_extra, require_extra
from envs.specs import EnvSpec, VectorEnv

if TYPE_CHECKING:
    from envs.car_racing.env import CarRacingEnv

logger = logging.getLogger(__name__)


def make(name: str, **options: Any) -> CarRacingEnv:
    """One environment, Gymnasium's.

    Raises:
        ValueError: For an unknown option (with the nearest name) or an invalid value.
    """
    config = config_from_options(CarRacingConfig, options)
    from envs.car_racing.env import CarRacingEnv

    return CarRacingEnv(config, _is_discrete(name))


def spec(name: str, **options: Any) -> EnvSpec:
    """The spec, whichever backend is installed.

    Raises:
        ValueError: For an unknown option (with the nearest name) or an invalid value.
    """
    return config_from_options(CarRacingConfig, options).spec(name, _is_discrete(name))


def make_pool(name: str, num_envs: int, num_threads: int, **options: Any) -> VectorEnv | None:
    """`num_envs` environments in one object, or None where they are to be made one by one.

    Raises:
        ValueError: As `make`.
    """
    config = config_from_options(CarRacingConfig, options)
    logger.info("%s x %d: %s", name, num_envs, backend(name, **options))
    if not _uses_envpool(config):
        return None
    from envs.car_racing.pool import CarRacingPool

    return CarRacingPool(name, num_envs, config, _is_discrete(name), num_threads)


def backend(name: str, **options: Any) -> str:
    """The package and version that steps vector environments of these options.

    Raises:
        ValueError: As `make`, or missing packages.
    """
    config = config_from_options(CarRacingConfig, options)
    distribution, extra = ("envpool", "envpool") if _uses_envpool(config) else ("gymnasium", "car-racing")
    require_extra(extra, f"{name} with backend={distribution}")
    return f"{distribution} {importlib.metadata.version(distribution)}"


def _uses_envpool(config: CarRacingConfig) -> bool:
    return config.backend == "envpool" or (config.backend == "auto" and has_extra("envpool"))


def _is_discrete(name: str) -> bool:
    return name == "car_racing_discrete"
