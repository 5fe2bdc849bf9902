"""Options of environments: from keyword arguments to a validated configuration, and the packages they need."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from envs.names import unknown_name

ConfigT = TypeVar("ConfigT")

EXTRAS = {
    "car-racing": ("Box2D", "pygame"),
    "carla": ("carla",),
    "dmc": ("dm_control",),
    "envpool": ("envpool",),
}
"""Optional extra of the distribution -> the modules it brings."""


def config_from_options(cls: type[ConfigT], options: Mapping[str, Any]) -> ConfigT:
    """The configuration dataclass `cls` with `options` set.

    Raises:
        ValueError: For an unknown option (with the nearest name) or an invalid value.
    """
    valid = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in valid:
            raise ValueError(unknown_name("option", name, valid))
    return cls(**options)


def has_extra(extra: str) -> bool:
    """Whether the packages of an optional extra are installed; none is imported."""
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra])


def require_extra(extra: str, user: str) -> None:
    """Refuse to go on without the packages of `extra`, which `user` needs.

    Raises:
        ValueError: Naming what is missing and how to install it.
    """
    missing = [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]
    if missing:
        raise ValueError(
            f"{user} needs the optional extra {extra!r} ({' and '.join(missing)} not installed); "
            f"install it with: pip install 'worldfleet[{extra}]'"
        )
