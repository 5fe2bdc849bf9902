"""Who may speak to a Ray cluster: whoever holds its token, or whoever reaches its ports.

Ray's ports (GCS, raylets, workers, Ray Client) listen on every interface of the machine, whatever the dashboard's host,
and whoever they let in runs code. Ray takes every `RAY_AUTH_MODE` that it does not know for `disabled`; here such a
value is refused. This module is the only one that reads or sets the three variables.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from envs.scratch import scratch_folder

Mode = Literal["token", "disabled"]

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"

MAKE_TOKEN = (
    "(umask 077; rm -f ~/.worldfleet-token; "
    "python3 -c 'import secrets; print(secrets.token_hex(32), end=\"\")' > ~/.worldfleet-token); "
    "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.worldfleet-token"
)
"""Shell commands that make a token which only this user can read, and use it."""

_SIOCGIFADDR = 0x8915


def stated_mode(environment: Mapping[str, str]) -> Mode | None:
    """What RAY_AUTH_MODE says, None if it is not set.

    Raises:
        ValueError: It is neither `token` nor `disabled`.
    """
    mode = environment.get(MODE)
    match mode:
        case None | "token" | "disabled":
            return mode
    raise ValueError(f"{MODE} must be token or disabled, got {mode!r}: Ray would take that for disabled")


def check(environment: Mapping[str, str], joins: bool) -> None:
    """Find out whether a run's Ray would be guarded as the variables say.

    Args:
        environment: The variables.
        joins: Whether the run joins a cluster, whose token it has to know.

    Raises:
        ValueError: RAY_AUTH_MODE is none of Ray's, or the token that is to be used is not there.
    """
    if stated_mode(environment) == "disabled":
        return
    path = environment.get(TOKEN_PATH)
    if path is not None and not environment.get(TOKEN):
        _check_file(path)
    if joins and stated_mode(environment) == "token" and not has_token(environment):
        raise ValueError(f"{MODE} is token, but there is none: set {TOKEN_PATH} to the cluster's, or {TOKEN}")


def token_file(environment: Mapping[str, str]) -> Path:
    """The file that Ray would read a token from; it may be missing."""
    return Path(environment.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def has_token(environment: Mapping[str, str]) -> bool:
    """Whether Ray would find a token."""
    return bool(environment.get(TOKEN)) or token_file(environment).is_file()


def others_can_read(path: Path) -> bool:
    """Whether other users of this machine can read a file."""
    return path.is_file() and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


@contextmanager
def guarded(joins: bool = False) -> Iterator[Path | None]:
    """Let Ray use a token inside the block, unless RAY_AUTH_MODE is `disabled`.

    The token is the one that the variables name. A cluster that this process starts takes a new one if they name none,
    in a file that only this user can read and that goes at the end: Ray is never left to make its own, which would lie
    in ~/.ray, readable for all. A cluster that is joined without a word about tokens is taken to demand none.

    Args:
        joins: Whether the cluster is there already.

    Yields:
        The file of the new token, None if there is none.

    Raises:
        ValueError: As `check`.
    """
    check(os.environ, joins)
    mode = stated_mode(os.environ)
    named = bool(os.environ.get(TOKEN)) or TOKEN_PATH in os.environ
    if mode == "disabled" or (joins and mode is None and not named):
        yield None
        return
    if named or (mode == "token" and has_token(os.environ)):
        with _environment({MODE: "token"}):
            yield None
        return
    with scratch_folder("token") as private:
        path = private / "token"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
        with _environment({MODE: "token", TOKEN_PATH: str(path)}):
            yield path


def interface_addresses() -> list[str]:
    """The addresses of this machine's interfaces, those of loopback first."""
    found = {"127.0.0.1"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            found.add(socket.inet_ntoa(answer[20:24]))
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        lines = []
    found |= {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])) for line in lines}
    return sorted(found, key=lambda address: (not address.startswith(("127.", "::1")), ":" in address, address))


def _check_file(path: str) -> None:
    try:
        content = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise ValueError(f"{TOKEN_PATH} is {path!r}, which cannot be read as a token: {reason}") from error
    if not content:
        raise ValueError(f"{TOKEN_PATH} is {path!r}, a file without a token")


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables inside the block, also for a Ray that has been imported before, which has read them already."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    _tell_ray()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        _tell_ray()


def _tell_ray() -> None:
    if "ray" in sys.modules:
        from ray import _raylet

        raylet: Any = _raylet
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
