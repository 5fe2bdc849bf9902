"""RAY_AUTH_MODE and the tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import authentication
from cluster.authentication import check, guarded, interface_addresses, others_can_read, stated_mode


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and none of the variables."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (authentication.MODE, authentication.TOKEN, authentication.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(authentication, "_tell_ray", lambda: None)
    return tmp_path


@pytest.mark.parametrize("mode", ["", "bogus", "TOKEN", "Disabled", " token", "none"])
def test_a_mode_that_ray_does_not_know_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="RAY_AUTH_MODE must be token or disabled"):
        stated_mode({"RAY_AUTH_MODE": mode})
    with pytest.raises(ValueError, match="RAY_AUTH_MODE"):
        check({"RAY_AUTH_MODE": mode}, joins=True)


def test_the_modes_that_there_are() -> None:
    assert [stated_mode(e) for e in ({}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "disabled"})] == [
        None,
        "token",
        "disabled",
    ]


@pytest.mark.parametrize("make", ["missing", "folder", "empty", "nothing"])
def test_a_token_path_without_a_token_is_refused_and_nothing_is_made(make: str, home: Path) -> None:
    path = home / "token"
    if make == "folder":
        path.mkdir()
    if make == "empty":
        path.touch()
    before = sorted(home.iterdir())
    with pytest.raises(ValueError, match="RAY_AUTH_TOKEN_PATH is '"):
        check({"RAY_AUTH_TOKEN_PATH": "" if make == "nothing" else str(path)}, joins=False)
    assert sorted(home.iterdir()) == before


def test_joining_with_tokens_takes_one(home: Path) -> None:
    with pytest.raises(ValueError, match="there is none"):
        check({"RAY_AUTH_MODE": "token"}, joins=True)
    check({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, joins=True)
    check({"RAY_AUTH_MODE": "token"}, joins=False)  # the run makes its own
    check({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""}, joins=True)


@pytest.mark.parametrize("stated", [None, "token"])
def test_a_cluster_of_ones_own_gets_a_token_that_goes_again(
    stated: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stated is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", stated)
    with guarded() as path:
        assert path is not None
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(path)
        assert len(path.read_text()) == 64
        assert not others_can_read(path)
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.parent.exists()
    assert os.environ.get("RAY_AUTH_MODE") == stated
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert not (home / ".ray").exists()


def test_a_token_that_is_given_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = home / "given"
    given.write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(given))
    for joins in (False, True):
        with guarded(joins) as path:
            assert path is None
            assert os.environ["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_MODE" not in os.environ


def test_joining_without_a_word_about_tokens_takes_none(home: Path) -> None:
    with guarded(joins=True) as path:
        assert path is None
        assert "RAY_AUTH_MODE" not in os.environ


def test_no_token_where_none_is_wanted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with guarded() as path:
        assert path is None
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_the_printed_commands_make_a_private_token(home: Path) -> None:
    (home / ".worldfleet-token").write_text("old")
    (home / ".worldfleet-token").chmod(0o644)
    assert os.system(authentication.MAKE_TOKEN) == 0
    path = home / ".worldfleet-token"
    assert (path.stat().st_mode & 0o777, len(path.read_text())) == (0o600, 64)
    check({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}, joins=True)


def test_the_addresses_of_this_machine_begin_with_loopback() -> None:
    assert interface_addresses()[0] == "127.0.0.1"
