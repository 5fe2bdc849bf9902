"""The machine report: reads limits as the kernel states them, and never fails for want of something."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import doctor
from cluster.doctor import Check, DoctorReport, available_cores, available_memory, render
from envs.options import EXTRAS

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture
def without_gl_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GL_BACKENDS", ())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, AFFINITY),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, AFFINITY),
        ({}, AFFINITY),
    ],
)
def test_cores_are_bounded_by_the_control_group(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"memory.max": "1048576\n"}, 1048576),
        ({"memory.max": "max\n"}, 8 * 2**20),
        ({"memory/memory.limit_in_bytes": "2097152\n"}, 2097152),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 * 2**20),
    ],
)
def test_memory_is_bounded_by_the_control_group(tmp_path: Path, files: dict[str, str], memory: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        8192 kB\nMemFree:         1 kB\n")
    for name, text in files.items():
        write(tmp_path / name, text)
    assert available_memory(tmp_path, meminfo) == memory


def test_unknown_memory_is_zero(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path / "none") == 0


@pytest.mark.usefixtures("without_gl_probes")
def test_versions_are_those_installed(tmp_path: Path) -> None:
    report = doctor.collect(tmp_path)
    assert report.get("software", "torch").found == importlib.metadata.version("torch")
    assert report.get("software", "numpy").status == "ok"
    assert str(tmp_path) in report.get("storage", "disk for runs").found


@pytest.mark.usefixtures("without_gl_probes")
def test_the_kernel_that_runs_is_named(tmp_path: Path) -> None:
    import native

    report = doctor.collect(tmp_path)
    expected = native.Ensemble(doctor._tiny_weights())
    assert report.get("kernels", "planner").found == f"{expected.isa} ({expected.precision})"
    assert report.get("will be used", "planner").found == report.get("kernels", "planner").found


@pytest.mark.usefixtures("without_gl_probes")
def test_unbuilt_kernels_are_reported_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "native", None)
    report = doctor.collect(tmp_path)
    assert report.get("kernels", "native").status == "missing"
    assert "make native" in report.get("kernels", "native").hint
    assert report.get("will be used", "planner").status == "missing"


@pytest.mark.usefixtures("without_gl_probes")
def test_the_backends_of_racing_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "envpool", ("json",))
    monkeypatch.setitem(EXTRAS, "car-racing", ("json",))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    found = doctor.collect(tmp_path).get("will be used", "car_racing").found
    assert found == "envpool 1.0 for rollouts, gymnasium 1.0 for evaluations"
    monkeypatch.setitem(EXTRAS, "envpool", ("no_such_module",))
    found = doctor.collect(tmp_path).get("will be used", "car_racing").found
    assert found == "gymnasium 1.0 for rollouts, gymnasium 1.0 for evaluations"
    monkeypatch.setitem(EXTRAS, "car-racing", ("no_such_module",))
    check = doctor.collect(tmp_path).get("will be used", "car_racing")
    assert (check.status, check.hint) == ("missing", "pip install 'worldfleet[car-racing]'")
    assert {check.name for check in doctor._simulators()} == {"carla", "box2d", "pygame", "envpool", "dm_control"}


@pytest.mark.usefixtures("without_gl_probes")
def test_a_directory_yet_to_be_made_is_measured_at_its_parent(tmp_path: Path) -> None:
    report = doctor.collect(tmp_path / "runs" / "new")
    assert report.get("storage", "disk for runs").found.endswith(str(tmp_path))


def test_a_hanging_driver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GL_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "GL_BACKENDS", ("egl",))
    [check] = doctor._finish_gl_probes(doctor._start_gl_probes(), timeout_s=0.2)
    assert (check.name, check.status) == ("egl", "warn")
    assert "hung" in check.found


def test_a_crashing_driver_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GL_PROBE", "import os; os.abort()")
    monkeypatch.setattr(doctor, "GL_BACKENDS", ("egl", "osmesa"))
    checks = list(doctor._finish_gl_probes(doctor._start_gl_probes()))
    assert [check.status for check in checks] == ["missing", "missing"]


def test_probes_choose_their_backend_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GL_PROBE", "import os; print(os.environ['MUJOCO_GL'])")
    checks = list(doctor._finish_gl_probes(doctor._start_gl_probes()))
    assert [check.found for check in checks] == list(doctor.GL_BACKENDS)


@pytest.mark.parametrize(
    ("environment", "status", "found"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "warn", "disabled; every port of Ray is open on 127.0.0.1"),
        ({"RAY_AUTH_MODE": "bogus"}, "warn", "RAY_AUTH_MODE must be token or disabled, got 'bogus'"),
        ({"RAY_AUTH_MODE": ""}, "warn", "RAY_AUTH_MODE must be token or disabled, got ''"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/none"}, "warn", "RAY_AUTH_TOKEN_PATH is '/none'"),
        ({"RAY_AUTH_MODE": "token", "RAY_ADDRESS": "10.0.0.1:6379"}, "warn", "token, but there is none"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "hush"}, "ok", "token"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, "warn", "not stated"),
        ({}, "ok", "a token of the run's own"),
    ],
)
def test_ray_authentication(
    environment: dict[str, str], status: str, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    check = next(doctor._ray(environment))
    assert check.status == status
    assert check.found.startswith(found)
    assert "hush" not in check.found + check.hint


def test_ray_address() -> None:
    checks = {check.name: check for check in doctor._ray({"RAY_ADDRESS": "10.0.0.1:6379"})}
    assert checks["cluster"].found == "joins 10.0.0.1:6379"


REPORT = DoctorReport(
    (Check("ray", "cluster", "ok", "joins [x]"), Check("accelerators", "cuda", "missing", "no device", "try [this]"))
)


def test_json_holds_every_line() -> None:
    lines = json.loads(render(REPORT, as_json=True))["checks"]
    assert lines[1] == {
        "section": "accelerators",
        "name": "cuda",
        "status": "missing",
        "found": "no device",
        "hint": "try [this]",
    }


def test_text_shows_findings_and_hints_literally() -> None:
    text = render(REPORT, width=100)
    assert "joins [x]" in text
    assert "try [this]" in text
    assert "\x1b" not in text


def test_an_unknown_line_is_an_error() -> None:
    with pytest.raises(ValueError, match="gpu/none"):
        REPORT.get("gpu", "none")


def test_the_module_runs_without_importing_ray() -> None:
    code = "import sys, cluster.doctor; assert 'ray' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
