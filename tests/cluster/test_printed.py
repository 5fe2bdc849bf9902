"""stdout carries results alone."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.printed import printed_apart

PRINTS = """
import os, subprocess, sys
from cluster.printed import printed_apart
with printed_apart():
    print("from", "Python")
    print("unfinished", end="")
    sys.stdout.reconfigure(line_buffering=True)
    sys.stdout.buffer.write(sys.stdout.encoding.encode())
    sys.stdout.buffer.flush()
    os.write(1, b"from C\\n")
    subprocess.run(["echo", "from a child"], check=True)
print("the result")
"""

CHATTY = """
import gymnasium, numpy
print("imported")
class Chatty(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), numpy.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), numpy.float32)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print("reset")
        return numpy.zeros(2, numpy.float32), {}
    def step(self, action):
        return numpy.zeros(2, numpy.float32), 0.0, True, False, {}
gymnasium.register("Chatty-v0", Chatty)
"""


@pytest.mark.parametrize("rays", [False, True])
def test_what_is_printed_goes_to_stderr_with_its_origin(
    rays: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if rays:  # what Ray puts in place of `print` in a process with progress bars
        tqdm_ray = pytest.importorskip("ray.experimental.tqdm_ray")
        monkeypatch.setattr(builtins, "print", tqdm_ray.safe_print)
    with printed_apart():
        print("one\ntwo")  # noqa: T201
    sys.stdout.write("the result\n")
    out, err = capsys.readouterr()
    assert out == "the result\n"
    assert err == f"{__name__} prints: one\n{__name__} prints: two\n"


def test_libraries_and_children_are_apart_too() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True)
    assert done.stdout == "the result\n"
    assert sorted(done.stderr.splitlines()) == [
        "__main__ prints: from Python",
        "__main__ prints: unfinished",
        "from a child",
        "utf-8from C",
    ]


def test_an_evaluation_of_a_simulator_that_talks_is_one_json_object(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    sets = ("cluster.mode=local", "schedule.total_steps=64", "replay.limiter.min_size=32", "learner.sequence_length=2")
    words = [word for setting in sets for word in ("--set", setting)]

    def worldfleet(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "worldfleet", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "chatty prints: imported" in done.stderr
        return done.stdout

    assert worldfleet("config", "--env", "gym:chatty:Chatty-v0").startswith("seed: 0\n")
    worldfleet("train", "--env", "gym:chatty:Chatty-v0", "--scale", "debug", *words, "--run-dir", "run")
    assert json.loads(worldfleet("eval", "--run-dir", "run", "--episodes", "2", "--gif-episodes", "0"))["episodes"] == 2
