"""Each check names each fault of `faulty`, and nothing of an environment without one."""

from __future__ import annotations

from typing import Any, cast

import pytest

from envs.testing.conformance import CHECKS, run_check
from envs.testing.process import Channel, run
from envs.testing.report import Finding
from envs.testing.subject import Subject
from tests.envs.testing.faulty import NAME


class Collected:
    """A channel of a check that runs in this process."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)

    def place(self, text: str) -> None:
        pass


OF_THE_PROCESS = ("memory",)
"""Checks that see what their process did before, such as memory that it freed and may take again."""


def found(check: str, kind: str, name: str = NAME, seconds: float = 0.5) -> list[Finding]:
    """What the check finds of the environment of this kind."""
    subject = Subject(name, {"kind": kind} if name == NAME else {})
    if check in OF_THE_PROCESS:
        messages = run(run_check, (check, subject, seconds), 60.0).messages
    else:
        channel = Collected()
        run_check(cast(Channel, channel), check, subject, seconds)
        messages = channel.messages
    return [message for message in messages if isinstance(message, Finding)]


IN_PROCESS = tuple(check for check in CHECKS if check != "subprocess")


@pytest.mark.parametrize("check", IN_PROCESS)
def test_nothing_is_wrong_with_a_plain_environment(check: str) -> None:
    findings = found(check, "plain")
    wrong = [f for f in findings if f.verdict != "ok" and "times the median" not in f.text]  # a busy machine has those
    assert findings
    assert not wrong


@pytest.mark.parametrize(
    ("check", "kind", "verdict", "belongs_to", "words"),
    [
        ("spaces", "multi_discrete", "fault", "spaces", "MultiDiscrete"),
        ("spaces", "multi_binary", "fault", "spaces", "MultiBinary"),
        (
            "spaces",
            "tuple",
            "fault",
            "spaces",
            "Tuple(Discrete(2), Discrete(2)) are not supported: a Discrete space or a Box of floats is",
        ),
        ("spaces", "dict", "fault", "spaces", "are not supported: a Discrete space or a Box of floats is"),
        ("spaces", "unbounded", "fault", "spaces", "dimensions [0] have no bounds"),
        ("spaces", "start", "note", "spaces", "start at 2"),
        ("spaces", "fixed", "note", "spaces", "dimension 1 is fixed: low == high == 0.5"),
        ("observations", "extra_key", "fault", "observations", "key 'b'"),
        ("observations", "missing_key", "fault", "observations", "lacks the key 'a'"),
        ("observations", "short", "fault", "observations", "shape (1,), its space (2,)"),
        ("observations", "integers", "note", "observations", "int64, its space float32"),
        ("observations", "fractions", "fault", "observations", "float32, its space uint8"),
        ("observations", "wide", "note", "observations", "float64, its space float32"),
        ("observations", "list", "note", "observations", "is a list"),
        ("observations", "outside", "fault", "observations", "bounds [-1, 1]"),
        ("observations", "nan", "fault", "finite", "holds nan"),
        ("observations", "reward_nan", "fault", "finite", "reward"),
        ("observations", "reward_array", "fault", "rewards", "shape (1,)"),
        ("observations", "reward_text", "fault", "rewards", "str"),
        ("observations", "flag", "note", "flags", "truncated is of type int"),
        ("aliasing", "alias", "fault", "aliasing", "the observation after it returned it"),
        ("aliasing", "changes_action", "fault", "aliasing", "action"),
        ("episodes", "limit_terminates", "fault", "episodes", "as terminated, not truncated"),
        ("episodes", "length_terminates", "note", "episodes", "terminate after 10 steps"),
        ("episodes", "endless", "note", "episodes", "no episode ends"),
        ("episodes", "resets_itself", "fault", "episodes", "resets itself"),
        ("determinism", "global_generator", "fault", "determinism", "two instances"),
        ("determinism", "shared", "fault", "determinism", "two resets"),
        ("replay", "own_generator", "note", "replay", "new streams"),
        ("actions", "float64", "note", "actions", "float32 rounds its bounds outwards in dimension 0"),
        ("actions", "start", "ok", "actions", "2 to 4"),
        ("render", "render_raises", "fault", "render", "NotImplementedError"),
        ("render", "no_picture", "note", "render", "videos are left out"),
        ("render", "list_of_pictures", "fault", "render", "list"),
        ("render", "grey", "fault", "render", "uint8 [8, 8]"),
        ("close", "leaves_file", "fault", "close", "1 open files"),
        ("close", "leaves_process", "fault", "close", "1 processes"),
        ("memory", "leak", "fault", "memory", "bytes a step"),
        ("subprocess", "shared", "fault", "subprocess", "step otherwise"),
        ("timing", "slow", "note", "timing", "over 10 times the median"),
    ],
)
def test_each_fault_is_named(check: str, kind: str, verdict: str, belongs_to: str, words: str) -> None:
    findings = found(check, kind)
    named = [f for f in findings if (f.check, f.verdict) == (belongs_to, verdict) and words in f.text]
    assert len(named) == 1, findings


@pytest.mark.parametrize(
    ("check", "kind", "error"),
    [
        ("actions", "refuses_corner", ValueError),
        ("close", "close_raises", RuntimeError),
        ("render", "bare_reset", TypeError),
    ],
)
def test_what_an_environment_raises_comes_out_of_the_check(check: str, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        found(check, kind)


def test_what_goes_with_the_instance_is_not_left_open() -> None:
    assert [finding.verdict for finding in found("close", "collected_file")] == ["ok"]


def test_a_violation_is_told_once_and_where() -> None:
    findings = [f for f in found("observations", "outside") if f.verdict == "fault"]
    assert [f.where for f in findings] == ["reset of the episode of reset(seed=0)"]


def test_seeds_that_change_nothing_and_actions_that_do_nothing_are_noted() -> None:
    name = "gym:envs.testing.time_limit:WorldfleetTimeLimit-v0"
    assert "another seed changes nothing" in found("determinism", "", name)[-1].text
    assert "do the same for 30 steps" in found("actions", "", name)[-1].text
