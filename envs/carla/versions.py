"""The versions of CARLA that the environments speak, and why others are refused."""

from __future__ import annotations

import importlib.metadata

SUPPORTED = "0.9.16"


def check_client() -> None:
    """Refuse to go on with another version of the `carla` package.

    Raises:
        ValueError: Naming both versions.
    """
    found = importlib.metadata.version("carla")
    if found != SUPPORTED:
        raise ValueError(
            f"the carla package installed is {found}, the environments speak {SUPPORTED}; "
            "install it with: pip install 'worldfleet[carla]'"
        )


def check_server(version: str, address: str) -> None:
    """Refuse a server of another version, before it is asked for anything else.

    Args:
        version: What the server says.
        address: Host and port, for the message.

    Raises:
        ValueError: Naming both versions and the reason.
    """
    if version == SUPPORTED:
        return
    reason = f"the numbers of its messages differ from those of {SUPPORTED}, which ends the client's process"
    if version.startswith("0.10"):
        reason = "0.10 runs on Unreal 5 with other maps, blueprints and vehicle physics"
    raise ValueError(
        f"the server at {address} is CARLA {version or '(no version)'}, the environments speak {SUPPORTED}: {reason}"
    )
