"""The whole report: processes that die or hang are faults like others, and what they hold up is said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from envs.testing.conformance import check_env
from envs.testing.report import Finding
from tests.envs.testing.faulty import NAME


def test_a_plain_environment_has_no_faults() -> None:
    told: list[str] = []

    def progress(check: str, findings: Sequence[Finding], seconds: float) -> None:
        told.append(check)

    wanted = {"spaces", "determinism", "render", "replay", "timing"}
    report = check_env(NAME, {"kind": "plain"}, only=wanted, progress=progress)
    assert not report.faults, report.faults
    assert sorted(told) == sorted(wanted)
    assert {finding.check for finding in report.findings} == wanted
    assert report.spec is not None
    assert report.spec.observation["state"].shape == (2,)
    assert (report.facts["exact_replay"], report.facts["deterministic"], report.facts["renders"]) == (True, True, True)
    assert report.facts["step_ms_median"] < report.facts["step_ms_max"]


@pytest.mark.parametrize(
    ("kind", "words", "where"),
    [
        ("exit", "dies with exit code 7", "step 3 of the episode of reset(seed=0)"),
        ("segfault", "dies with signal SIGSEGV", "string_at"),
        ("hang", "hangs", "in misbehave"),
    ],
)
def test_deaths_and_hangs_are_faults_that_say_where(kind: str, words: str, where: str) -> None:
    seconds = 6.0 if kind == "hang" else 60.0
    report = check_env(NAME, {"kind": kind}, seconds=seconds, only=["observations", "subprocess"])
    fault, skipped = report.of("observations")[-1], report.of("subprocess")[0]
    assert fault.verdict == "fault"
    assert words in fault.text
    assert where in fault.where
    assert (skipped.verdict, skipped.text) == ("note", "not checked: there are faults in observations")


def test_refused_names_and_options_are_errors() -> None:
    with pytest.raises(ValueError, match="NoSuchEnvironment"):
        check_env("gym:NoSuchEnvironment-v0")
    with pytest.raises(ValueError, match=r"unknown option 'wind_st' \(did you mean 'wind_std'"):
        check_env("nav3d", {"wind_st": 1})
    with pytest.raises(ValueError, match="unknown check 'spice'"):
        check_env(NAME, only=["spice"])
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        check_env(NAME, seconds=0)


def test_options_that_cannot_be_pickled_are_a_fault() -> None:
    (fault,) = check_env(NAME, {"kind": lambda: "plain"}).findings
    assert (fault.check, fault.verdict) == ("subprocess", "fault")
    assert "cannot be pickled" in fault.text


def test_an_environment_that_cannot_be_encoded_is_still_checked() -> None:
    report = check_env(NAME, {"kind": "multi_discrete"}, only=["observations", "replay"])
    assert report.spec is None
    assert [fault.check for fault in report.faults] == ["spaces"]
    assert report.of("observations")[0].verdict == "ok"
    assert "not checked: there are faults in spaces" in report.of("replay")[0].text
