"""`worldfleet bench TOPIC --set KEY=VALUE`."""

from __future__ import annotations

import importlib

import pytest

from cluster.bench.replay import run
from cluster.cli import BENCHES, bench_options, main


def test_values_get_the_types_of_the_defaults() -> None:
    options = bench_options(run, ["parts=tree", "quick=true", "rounds=3"])
    assert options == {"parts": "tree", "quick": True, "rounds": 3}
    assert bench_options(importlib.import_module(BENCHES["scale"]).run, ["seconds=2", "shards=4"]) == {
        "seconds": 2.0, "shards": "4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("turns=3", "takes --set parts, quick, peers, rounds; there is no 'turns'"),
        ("rounds=few", "rounds must be an integer, got 'few'"),
        ("quick=1", "quick must be true or false, got 1"),
    ],
)
def test_bad_values_are_named(assignment: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bench_options(run, [assignment])


def test_the_command_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "replay", "--set", "rounds=few"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "worldfleet: error: rounds must be an integer, got 'few'\n"
