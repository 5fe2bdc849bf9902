"""World models at fleet scale: all that a user imports.

Importing it binds the names of our packages (`worldfleet.names`), so that a project with packages of the same names
works beside them. The parts below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from worldfleet.names import bind

if TYPE_CHECKING:
    from worldfleet.agent import Agent, load

__all__ = ["Agent", "__version__", "bind", "check_env", "load", "testing"]

__version__ = "0.1.0"

_PARTS = {"Agent": "worldfleet.agent", "load": "worldfleet.agent", "check_env": "worldfleet.testing"}


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("worldfleet.testing")
    if name in _PARTS:
        return getattr(import_module(_PARTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


bind()
