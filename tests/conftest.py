"""Every Ray cluster of the tests demands a token, made for this run of them; see docs/deployment.md."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack

import pytest

from envs.scratch import scratch_folder

_STACK = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Make the token before Ray is imported; processes that help this one find it in their environment."""
    if not hasattr(config, "workerinput") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        path = _STACK.enter_context(scratch_folder("test")) / "token"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    os.environ["RAY_AUTH_MODE"] = "token"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the token."""
    _STACK.close()
