"""Install a wheel into an empty virtual environment and use it from a project with packages of our names.

Third-party packages are read from the running interpreter's site-packages by a path entry, which runs none of its
`.pth` files: the development install is out of reach and our packages can come from the wheel only.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("worldfleet", "cluster", "learner", "actors", "envs", "planners", "native")
FOREIGN_SUFFIXES = (".cc", ".h", ".cpp", ".hpp", ".o", ".a", "CMakeLists.txt")

PROBE = """
import importlib, importlib.resources, pathlib, sys
home = pathlib.Path(sys.prefix).resolve()
for name in sys.argv[1:]:
    origin = pathlib.Path(importlib.import_module(name).__file__).resolve()
    assert origin.is_relative_to(home), f"{name} was imported from {origin}, not from the wheel"
import worldfleet, native, cluster.cli
assert native.build_info()["sources"], "the kernels do not say what they were built from"
presets = list((importlib.resources.files("cluster") / "presets").rglob("*.yaml"))
assert presets, "no presets were installed"
"""


PROJECT = {
    "envs/__init__.py": """
import gymnasium
from envs.mine import Mine
gymnasium.register("Mine-v0", entry_point="envs:Mine")
""",
    "envs/mine.py": """
import gymnasium, numpy
from actors.bounds import HIGH
from cluster.sizes import SIZE
from tests.bounds import LOW

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (SIZE,), numpy.float32)
    action_space = gymnasium.spaces.Box(LOW, HIGH, (2,), numpy.float32)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.time += 1
        return self.np_random.uniform(-1, 1, SIZE).astype(numpy.float32), 1.0, False, self.time == 20, {}

    def render(self):
        return numpy.zeros((8, 8, 3), numpy.uint8)
""",
    "actors/bounds.py": "HIGH = 1.0\n",  # a folder without __init__.py
    "cluster/__init__.py": "",
    "cluster/sizes.py": "SIZE = 3\n",
    "tests/__init__.py": "",
    "tests/bounds.py": "LOW = -1.0\n",
}
"""A user's project: file -> text."""

TRAIN = ("train", "--scale", "debug", "--set", "schedule.total_steps=512")
MINE = ("--env", "gym:envs:Mine-v0")


def check_contents(wheel: Path) -> None:
    """Raise SystemExit when the wheel carries sources or lacks a part."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    problems = [f"carries {name}" for name in names if name.endswith(FOREIGN_SUFFIXES)]
    problems += [f"lacks {name}/__init__.py" for name in PACKAGES if f"{name}/__init__.py" not in names]
    problems += [f"lacks {name}" for name in ("native/_native.pyi", "native/py.typed") if name not in names]
    if not any(name.startswith("native/_native.") and name.endswith(".so") for name in names):
        problems.append("lacks the extension native/_native")
    if "cluster/report/report.css" not in names:
        problems.append("lacks the style of the report")
    if not any(name.startswith("cluster/presets/") and name.endswith(".yaml") for name in names):
        problems.append("lacks the presets")
    foreign = {name.split("/")[0] for name in names if "dist-info" not in name} - set(PACKAGES)
    problems += [f"carries a foreign top level {name}" for name in sorted(foreign)]
    if problems:
        raise SystemExit(f"{wheel.name} " + "; ".join(problems))


def check_install(wheel: Path) -> None:
    """Install the wheel alone and run it from a directory that is not the repository."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "venv"
        venv.create(home, with_pip=True)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
        (site / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = home / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
        subprocess.run([python, "-I", "-c", PROBE, *PACKAGES], cwd=scratch, check=True)
        check_project(home, Path(scratch))


def check_project(home: Path, scratch: Path) -> None:
    """Train and evaluate in a project's folder, then in Ray jobs, in both simulator modes; run a checkout as a job."""
    project = scratch / "project"
    for name, text in PROJECT.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    token = scratch / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment |= {"OMP_NUM_THREADS": "1", "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}

    def worldfleet(*words: str) -> str:
        command = [str(home / "bin" / "worldfleet"), *words]
        return subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.PIPE).stdout.decode()

    for mode in ("serial", "subprocess"):
        run_dir = str(scratch / f"local-{mode}")
        worldfleet(*TRAIN, *MINE, "--set", "cluster.mode=local", "--set", f"env.mode={mode}", "--run-dir", run_dir)
        summary = json.loads(worldfleet("eval", "--run-dir", run_dir, "--episodes", "2"))
        assert summary["return_mean"] == 20.0, summary

    jobs = {f"job-{mode}": (project, *MINE, "--set", f"env.mode={mode}") for mode in ("serial", "subprocess")}
    jobs["job-checkout"] = (ROOT, "--env", "nav3d")
    with ray_head(home, environment) as submit, ThreadPoolExecutor() as pool:
        runs = {name: scratch / name for name in jobs}
        words = ((folder, "worldfleet", *TRAIN, *more) for folder, *more in jobs.values())
        list(pool.map(lambda job, run_dir: submit(*job, "--run-dir", str(run_dir)), words, runs.values()))
    for name, run_dir in runs.items():
        assert (run_dir / "DONE.json").is_file(), f"{name} has not ended"


@contextlib.contextmanager
def ray_head(home: Path, environment: dict[str, str]) -> Iterator[Callable[..., None]]:
    """A Ray head node; gives a function that runs a command as a job in a folder and waits for its end."""
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    ray = [str(home / "bin" / "python"), "-m", "ray.scripts.scripts"]
    temporary = Path(tempfile.mkdtemp(prefix="wf-", dir="/tmp"))  # short: Ray's sockets live below it
    options = [f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--metrics-export-port={ports[2]}"]
    options += ["--num-cpus=12", "--disable-usage-stats", f"--temp-dir={temporary}", "--object-store-memory=400000000"]
    with (temporary / "head.log").open("w") as log:
        head = subprocess.Popen([*ray, "start", "--head", "--block", *options], env=environment, stdout=log, stderr=log)

    def submit(folder: Path, *words: str) -> None:
        command = [*ray, "job", "submit", f"--address=http://127.0.0.1:{ports[1]}", f"--working-dir={folder}", "--"]
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            said = done.stdout + done.stderr
            if "submitted successfully" in said or time.monotonic() > deadline:
                raise SystemExit(f"{words} in {folder} failed:\n{said}")
            time.sleep(1.0)  # a head answers some time after its start

    try:
        yield submit
    finally:
        head.terminate()
        head.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def main() -> None:
    """Check the wheel named on the command line."""
    wheel = Path(sys.argv[1]).resolve()
    check_contents(wheel)
    check_install(wheel)
    sys.stderr.write(f"{wheel.name} installs and imports by itself\n")


if __name__ == "__main__":
    main()
