"""What this machine offers, and what a run would use of it.

Nothing here fails because something is missing: each line says what was found and, where that matters, what to do.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cluster import authentication
from envs.scratch import owned_files

Status = Literal["ok", "warn", "missing"]

GIBIBYTE = 2**30
GL_BACKENDS = ("egl", "osmesa", "glfw")
GL_TIMEOUT_S = 20.0
MIN_SHM_FRACTION = 0.3
"""Ray's object store takes this share of memory and falls back to the disk when /dev/shm is smaller."""
MIN_DISK_GIB = 5.0

GL_PROBE = """
import mujoco
context = mujoco.GLContext(32, 32)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
from OpenGL import GL
print(GL.glGetString(GL.GL_RENDERER).decode())
"""


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    section: str
    name: str
    status: Status
    found: str
    hint: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All lines, in the order they are shown."""

    checks: tuple[Check, ...]

    def section(self, name: str) -> tuple[Check, ...]:
        """The lines of one section."""
        return tuple(check for check in self.checks if check.section == name)

    def get(self, section: str, name: str) -> Check:
        """One line.

        Raises:
            ValueError: There is no such line.
        """
        for check in self.section(section):
            if check.name == name:
                return check
        raise ValueError(f"the report has no line {section}/{name}")


def collect(run_root: Path = Path(".")) -> DoctorReport:
    """Look at this machine; takes a few seconds, most of it in probing OpenGL.

    Args:
        run_root: where runs would be stored; its disk is measured.
    """
    probes = _start_gl_probes()
    hardware = (*_processor(), *_kernels(), *_gpus())
    checks = (*_software(), *hardware, *_ray(os.environ), *_simulators(), *_storage(run_root))
    checks = (*checks, *_finish_gl_probes(probes))
    return DoctorReport((*checks, *_choices(checks)))


def render(report: DoctorReport, as_json: bool = False, width: int | None = None) -> str:
    """The report as text for a terminal, or as one JSON object."""
    if as_json:
        return json.dumps({"checks": [dataclasses.asdict(check) for check in report.checks]}, indent=2) + "\n"
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "missing": ("missing", "dim")}
    table = Table(title="worldfleet doctor", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("", "what", "status", "found"):
        table.add_column(column, overflow="fold")
    previous = ""
    for check in report.checks:
        found = Text(check.found)
        if check.hint:
            found.append(f"\n{check.hint}", style="italic dim")
        section = check.section if check.section != previous else ""
        if section and previous:
            table.add_section()
        table.add_row(Text(section, style="bold"), Text(check.name), Text(*styles[check.status]), found)
        previous = check.section
    stream = io.StringIO()
    columns = width or shutil.get_terminal_size((110, 24)).columns
    console = Console(file=stream, width=columns, force_terminal=_is_terminal())
    console.print(table)
    return stream.getvalue()


def _is_terminal() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


# Software


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _software() -> Iterator[Check]:
    python = platform.python_version()
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    hint = "" if supported else "tested with Python 3.11 and 3.12"
    yield Check("software", "python", "ok" if supported else "warn", python, hint)
    for name in ("worldfleet", "torch", "ray", "mujoco", "gymnasium", "numpy"):
        version = _version(name)
        if version is None:
            yield Check("software", name, "missing", "not installed", "install with: make setup")
        else:
            yield Check("software", name, "ok", version)


# Processor


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores this process may use: the affinity mask, bounded by the quota of its control group (v1 or v2)."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, period = _words(cgroup / "cpu.max"), ["100000"]
    if len(quota) == 2:
        quota, period = quota[:1], quota[1:]
    else:
        quota, period = _words(cgroup / "cpu" / "cpu.cfs_quota_us"), _words(cgroup / "cpu" / "cpu.cfs_period_us")
    if quota and period and quota[0].isdigit() and int(period[0]) > 0:
        cores = min(cores, int(quota[0]) / int(period[0]))
    return cores


def available_memory(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory this process may use: the machine's, bounded by its control group; 0 if unknown."""
    total = 0
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        total = int(fields.get("MemTotal", "0 kB").split()[0]) * 1024
    for limit in (_words(cgroup / "memory.max"), _words(cgroup / "memory" / "memory.limit_in_bytes")):
        if limit and limit[0].isdigit():
            total = min(total, int(limit[0])) if total else int(limit[0])
    return total


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _cpu_model() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _processor() -> Iterator[Check]:
    yield Check("processor", "model", "ok", _cpu_model())
    cores = available_cores()
    found = f"{cores:g} of {os.cpu_count() or 1}"
    if cores < 2:
        yield Check("processor", "cores", "warn", found, "all roles share one core: expect slow runs")
    else:
        yield Check("processor", "cores", "ok", found)
    memory = available_memory()
    if memory == 0:
        yield Check("processor", "memory", "warn", "unknown")
    elif memory < 4 * GIBIBYTE:
        yield Check("processor", "memory", "warn", _gib(memory), "a run with Ray wants 4 GiB or more")
    else:
        yield Check("processor", "memory", "ok", _gib(memory))


def _gib(size: float) -> str:
    return f"{size / GIBIBYTE:.1f} GiB"


# Kernels


def _tiny_weights() -> dict[str, np.ndarray]:
    """The smallest ensemble the kernels accept: one layer, one state, one action."""
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    return {
        "weight_0": np.zeros((1, 2, 2), np.float32),
        "bias_0": np.zeros((1, 2), np.float32),
        "input_shift": zeros,
        "input_scale": ones,
        "output_shift": zeros,
        "output_scale": ones,
        "activation": np.frombuffer(b"silu", np.uint8).copy(),
        "gaussian": np.asarray(0, np.int64),
        "has_termination": np.asarray(0, np.int64),
    }


def _kernels() -> Iterator[Check]:
    try:
        import native
    except ImportError as error:
        yield Check("kernels", "native", "missing", str(error).split(";")[0], "build them with: make native")
        return
    features = native.cpu_features()
    named = ", ".join(name for name, present in sorted(features.items()) if present) or "none beyond the baseline"
    yield Check("kernels", "instruction sets", "ok", named)
    for precision in ("auto", "fp32"):
        ensemble = native.Ensemble(_tiny_weights(), precision=precision)
        name = "planner" if precision == "auto" else "planner, fp32"
        scalar = ensemble.isa == "scalar"
        hint = "no vector kernel fits this processor: planning will be slow" if scalar else ""
        yield Check("kernels", name, "warn" if scalar else "ok", f"{ensemble.isa} ({ensemble.precision})", hint)


# Accelerators


def _gpus() -> Iterator[Check]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        hint = "" if built else "this torch is built without CUDA"
        yield Check("accelerators", "cuda", "missing", "no CUDA device", hint)
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        capability = f"{device.major}.{device.minor}"
        found = f"{device.name}, {_gib(device.total_memory)}, compute {capability}"
        yield Check("accelerators", f"cuda:{index}", "ok", found)


# Ray


def _ray(environment: os._Environ[str] | dict[str, str]) -> Iterator[Check]:
    address = environment.get("RAY_ADDRESS")
    yield _authentication(environment, address)
    token = authentication.token_file(environment)
    if authentication.others_can_read(token):
        yield Check("ray", "token file", "warn", f"{token} can be read by other users", f"chmod 600 {token}")
    yield Check("ray", "cluster", "ok", f"joins {address}" if address else "starts its own on this machine")


def _authentication(environment: os._Environ[str] | dict[str, str], address: str | None) -> Check:
    try:
        mode = authentication.stated_mode(environment)
        authentication.check(environment, joins=False)
    except ValueError as error:
        return Check("ray", "authentication", "warn", str(error), "no run starts on Ray like this")
    if mode == "disabled":
        hint = (
            "whoever reaches these addresses may run code in a Ray started from here, whatever the dashboard's host; "
            f"use a token: {authentication.MAKE_TOKEN}"
        )
        addresses = ", ".join(authentication.interface_addresses())
        return Check("ray", "authentication", "warn", f"disabled; every port of Ray is open on {addresses}", hint)
    if mode == "token" and address and not authentication.has_token(environment):
        return Check("ray", "authentication", "warn", "token, but there is none", authentication.MAKE_TOKEN)
    if mode is None and address:
        hint = "set RAY_AUTH_MODE to what the cluster demands, token or disabled"
        return Check("ray", "authentication", "warn", "not stated", hint)
    own = mode is None or not authentication.has_token(environment)
    return Check("ray", "authentication", "ok", "a token of the run's own" if own else "token")


# Simulators


def _simulators() -> Iterator[Check]:
    wanted = {
        "carla": ("carla", "pip install carla==0.9.16"),
        "Box2D": ("box2d", "pip install 'worldfleet[car-racing]'"),
        "pygame": ("pygame", "pip install 'worldfleet[car-racing]'"),
        "envpool": ("envpool", "pip install 'worldfleet[envpool]'"),
        "dm_control": ("dm_control", "pip install 'worldfleet[dmc]'"),
    }
    for module, (distribution, install) in wanted.items():
        if importlib.util.find_spec(module) is None:
            yield Check("simulators", distribution, "missing", "not installed", f"optional: {install}")
        else:
            yield Check("simulators", distribution, "ok", _version(distribution) or "installed")


# Rendering


def _start_gl_probes() -> dict[str, subprocess.Popen[str]]:
    """One process a backend: a broken driver may crash or hang the process that opens it."""
    probes = {}
    for backend in GL_BACKENDS:
        environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": "" if backend == "glfw" else backend}
        if backend == "glfw":
            environment.pop("PYOPENGL_PLATFORM")
        probes[backend] = subprocess.Popen(
            [sys.executable, "-c", GL_PROBE],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    return probes


def _finish_gl_probes(probes: dict[str, subprocess.Popen[str]], timeout_s: float = GL_TIMEOUT_S) -> Iterator[Check]:
    deadline = time.monotonic() + timeout_s
    for backend, process in probes.items():
        try:
            output, complaints = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            yield Check("rendering", backend, "warn", f"hung for {timeout_s:g} s", "choose another with MUJOCO_GL")
            continue
        if process.returncode == 0:
            yield Check("rendering", backend, "ok", output.strip().splitlines()[-1])
        else:
            last = complaints.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
            yield Check("rendering", backend, "missing", last[0][:160])


# Storage


def _storage(run_root: Path) -> Iterator[Check]:
    left = [path for path, alive in owned_files() if not alive]
    if left:
        hint = "the next run removes it, or: worldfleet doctor --clean"
        yield Check("storage", "left by killed processes", "warn", f"{len(left)} files or folders, {left[0]}", hint)
    yield _space("disk for runs", run_root, MIN_DISK_GIB * GIBIBYTE, "checkpoints and replay logs need room")
    yield _space("temporary", Path(tempfile.gettempdir()), MIN_DISK_GIB * GIBIBYTE, "Ray keeps its session there")
    shm = Path("/dev/shm")
    if not shm.is_dir():
        yield Check("storage", "shared memory", "missing", "no /dev/shm", "Ray's object store will lie on disk, slowly")
        return
    needed = MIN_SHM_FRACTION * available_memory()
    hint = f"smaller than {MIN_SHM_FRACTION:.0%} of memory: the object store falls back to disk; give containers more"
    yield _space("shared memory", shm, needed, hint)


def _space(name: str, path: Path, needed: float, hint: str) -> Check:
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    usage = shutil.disk_usage(existing)
    found = f"{_gib(usage.free)} free of {_gib(usage.total)} at {existing}"
    enough = usage.free >= needed or math.isclose(usage.free, needed)
    return Check("storage", name, "ok" if enough else "warn", found, "" if enough else hint)


# What a run will use


def _choices(checks: tuple[Check, ...]) -> Iterator[Check]:
    report = DoctorReport(checks)
    gpus = [check.name for check in report.section("accelerators") if check.status == "ok"]
    yield Check("will be used", "learner", "ok", ", ".join(gpus) or "cpu")
    planners = [check for check in report.section("kernels") if check.name == "planner"]
    if planners:
        yield Check("will be used", "planner", planners[0].status, planners[0].found)
    else:
        yield Check("will be used", "planner", "missing", "nothing: the kernels are not built", "make native")
    rollouts = _car_racing_backend("auto")
    if rollouts is None:
        yield Check("will be used", "car_racing", "missing", "nothing", "pip install 'worldfleet[car-racing]'")
    else:
        evaluations = _car_racing_backend("gymnasium") or "nothing"
        yield Check("will be used", "car_racing", "ok", f"{rollouts} for rollouts, {evaluations} for evaluations")
    contexts = [check.name for check in report.section("rendering") if check.status == "ok"]
    fallback = f"; {contexts[0]} for renderer=gl" if contexts else ""
    yield Check("will be used", "pictures", "ok", f"ray casting on the CPU{fallback}")


def _car_racing_backend(backend: str) -> str | None:
    """What steps car_racing under that option, None if it is not installed."""
    from envs.registry import vector_backend

    try:
        return vector_backend("car_racing", backend=backend)
    except ValueError:
        return None
