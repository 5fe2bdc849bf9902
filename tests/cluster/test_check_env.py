"""The command check-env: exit codes, the report in both forms, and what a run will do with the environment."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from cluster import check_env as module
from cluster.check_env import fitting_algorithms, make_plan, render, run_check_env
from cluster.cli import main
from cluster.config import EnvConfig, preset_names, resolve
from envs.specs import ArraySpec, EnvSpec
from envs.testing.conformance import CHECKS
from envs.testing.report import Finding, Report

STATE = ArraySpec((4,), "float32")
IMAGE = ArraySpec((64, 64, 3), "uint8", 0, 255)
BOX = ArraySpec((2,), "float32", -1.0, 1.0)
IDS = ArraySpec((), "int64", 0, 1, 2)
ALL = dict.fromkeys(preset_names("algorithms"))
QUICK = {"step_ms_median": 0.02, "episodes": 3, "episode_limit": None, "exact_replay": True, "renders": True}


def report_of(
    observation: dict[str, ArraySpec], action: ArraySpec, faults: int = 0, name: str = "nav3d", **facts: Any
) -> Report:
    findings = [Finding("timing", "ok", "quick")] + [Finding("episodes", "fault", "wrong", "step 3")] * faults
    return Report(name, {}, EnvSpec(name, observation, action), tuple(findings), QUICK | facts)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command."""
    with pytest.raises(SystemExit) as end:
        main(["check-env", *arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_an_environment_without_faults(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "gym:envs.testing.cue:WorldfleetCue-v0", "--set", "env.options.delay=3", "--json")
    report = json.loads(out)
    assert (code, report["faults"]) == (0, 0), report["findings"]
    assert report["options"] == {"delay": 3}
    assert report["spec"]["observation"] == {"state": {"dtype": "float32", "shape": [2], "num_values": None}}
    assert report["spec"]["action"] == {"dtype": "int64", "shape": [], "num_values": 2}
    assert report["algorithms"]["dreamer_v3"] is None
    assert "pets needs actions in a box, not 2 discrete ids" in report["algorithms"]["pets"]
    assert {finding["check"] for finding in report["findings"]} == set(CHECKS)
    assert err.count("check-env: ") == len(CHECKS)
    words = report["command"].split()
    assert words[:2] == ["worldfleet", "train"]
    config = resolve(words[3], words[5], words[7], overrides=words[9::2])
    assert config.env.options == {"delay": 3} == yaml.safe_load(report["config"])["env"]["options"]


def test_faults_and_bad_input_have_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, named in (
        (["gym:NoSuchEnvironment-v0"], "NoSuchEnvironment"),
        (["nav3d", "--set", "env.options.wind_st=1"], "did you mean 'wind_std'"),
        (["nav3d", "--set", "learner.batch_size=1"], "takes keys of env"),
        (["nav4d"], "did you mean 'nav3d'"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert named in err.splitlines()[-1]
    monkeypatch.setattr(module, "check_env", lambda name, *_, **__: report_of({"state": STATE}, BOX, faults=1))
    monkeypatch.setattr(module, "fitting_algorithms", lambda *_: ALL)
    assert run_check_env("nav3d", []) == 1
    out = capsys.readouterr().out
    assert "fault episodes      wrong (step 3)" in out
    assert "once the faults are mended" in out
    assert out.endswith("1 fault\n")


def plan_of(report: Report, algorithms: dict[str, str | None] | None = None) -> module.Plan:
    return make_plan("nav3d", EnvConfig("nav3d"), [], report, ALL if algorithms is None else algorithms)


def test_the_preset_follows_observation_and_action() -> None:
    assert "--algo pets --env nav3d --scale laptop" in plan_of(report_of({"state": STATE}, BOX)).command
    assert "--algo dreamer_v3 --env nav3d --scale laptop_pixels" in plan_of(report_of({"image": IMAGE}, BOX)).command
    no_planner = {**ALL, "pets": "discrete", "planet": "discrete"}
    assert "--algo dreamer_v3" in plan_of(report_of({"state": STATE}, IDS), no_planner).command
    refused = plan_of(report_of({"state": STATE}, BOX), dict.fromkeys(ALL, "no"))
    assert (refused.command, refused.config) == ("", "")
    assert "not   pets          no" in render(report_of({"state": STATE}, BOX), refused)


def test_slow_simulators_get_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    plan = plan_of(report_of({"state": STATE}, BOX, step_ms_median=2.0))
    assert plan.remarks["env.mode"].startswith("subprocess: 8 environments of 2 ms a step on 4 cores save 12 ms")
    assert "--set env.mode=subprocess" in plan.command
    assert yaml.safe_load(plan.config) == {"env": {"name": "nav3d", "mode": "subprocess"}}
    assert plan_of(report_of({"state": STATE}, BOX)).remarks["env.mode"].startswith("serial")


def test_remarks_on_resuming_and_endless_episodes() -> None:
    remarks = plan_of(report_of({"state": STATE}, BOX, exact_replay=False, episodes=0, renders=False)).remarks
    assert remarks["resume"] == "with new streams"
    assert "time limit" in remarks["evaluation"]
    assert remarks["videos"] == "left out"


def test_an_environment_that_dies_fits_no_algorithm() -> None:
    name = "gym:tests.envs.testing.faulty:Faulty-v0"
    answers = fitting_algorithms(name, ["env.options.kind=dies_when_made"])
    assert set(answers) == set(ALL)
    assert all(reason is not None and "exit code 3" in reason for reason in answers.values())
