"""Projects with packages of our names, each in a folder and a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MINE = """
import gymnasium, numpy as np
from actors.bounds import HIGH
from tests.bounds import LOW

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(LOW, HIGH, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.ones(2, np.float32), 0.5, False, True, {}
"""


@pytest.fixture(params=["regular", "namespace"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with packages `envs`, `actors`, `cluster` and `tests`."""
    home = tmp_path / "project"
    for file, text in {
        "envs/mine.py": MINE, "actors/bounds.py": "HIGH = 1.0", "tests/bounds.py": "LOW = -1.0", "cluster/mine.py": "",
    }.items():  # fmt: skip
        write(home / file, text)
    if request.param == "regular":
        register = (
            'import gymnasium\nfrom envs.mine import Mine\ngymnasium.register("Mine-v0", entry_point="envs:Mine")\n'
        )
        write(home / "envs" / "__init__.py", f"{register}HERE = __file__\n")
        write(home / "tests" / "__init__.py", "")
    return home


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def run(*words: str, path: list[Path], cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Python with these folders first on its path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def refused(done: subprocess.CompletedProcess[str], *names: object) -> None:
    """Whether a command ended with exit code 2 and one line that has these names."""
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("worldfleet: error: ")
    assert all(str(name) in line for name in names), line


@pytest.mark.parametrize("ours_first", [True, False])
def test_modules_have_their_owners_in_any_order_of_the_path(project: Path, ours_first: bool) -> None:
    code = """
import worldfleet, sys
assert "numpy" not in sys.modules, "the name alone is light"
import actors.bounds, cluster.mine, envs.mine, envs.specs, cluster.config, tests.bounds
print(envs.mine.__file__, envs.specs.__file__, cluster.mine.__file__, cluster.config.__file__, tests.bounds.__file__)
"""
    path = [ROOT, project] if ours_first else [project, ROOT]
    files = run("-c", code, path=path, cwd=project).stdout.split()
    assert files == [
        f"{project}/envs/mine.py",
        f"{ROOT}/envs/specs.py",
        f"{project}/cluster/mine.py",
        f"{ROOT}/cluster/config.py",
        f"{project}/tests/bounds.py",
    ]


def test_a_package_of_the_project_runs_its_init_file_too(project: Path) -> None:
    if not (project / "envs" / "__init__.py").exists():
        pytest.skip("a namespace has none")
    code = "import worldfleet, envs, envs.registry; print(envs.HERE, envs.__file__, len(envs.__path__))\n"
    code += "env = envs.registry.make_env('gym:envs:Mine-v0'); print(env.reset().observation)"
    out = run("-c", code, path=[project, ROOT], cwd=project).stdout.splitlines()
    assert out[0].split() == [f"{project}/envs/__init__.py", f"{ROOT}/envs/__init__.py", "2"]
    assert "[0., 0.]" in out[1]


def test_spawned_simulators_and_pickles_find_both(project: Path, tmp_path: Path) -> None:
    code = """
import worldfleet, pickle
from functools import partial
from envs.adapters import GymnasiumEnv
from envs.mine import Mine
from envs.vector import SubprocessVectorEnv

def make():
    raise AssertionError

assert pickle.loads(pickle.dumps(Mine)) is Mine
env = SubprocessVectorEnv([partial(GymnasiumEnv, Mine(), "mine")] * 2, 2)
env.reset([0, 1])
print(env.step([[0.0], [0.0]]).reward)
env.close()
"""
    assert run("-c", code, path=[project, ROOT], cwd=tmp_path).stdout == "[0.5 0.5]\n"


def test_the_command_finds_the_project_in_the_current_folder(project: Path, tmp_path: Path) -> None:
    """As the console script does: the folder of the script is on the path, the current one is not."""
    script = write(
        tmp_path / "bin" / "script.py",
        "from worldfleet.__main__ import main\ntry:\n    main()\n"
        "finally:\n    import envs.mine\n    print(envs.mine)\n",
    )
    done = run(str(script), "presets", path=[ROOT], cwd=project)
    assert "scales: debug" in done.stdout
    assert f"{project}/envs/mine.py" in done.stdout


@pytest.mark.parametrize(
    ("file", "ours"),
    [
        ("cluster/config.py", "cluster/config.py"),
        ("envs/nav3d/__init__.py", "envs/nav3d/__init__.py"),
        ("envs/nav3d/extra.py", "envs/nav3d/__init__.py"),  # a folder without __init__.py
        ("envs.py", "envs/__init__.py"),
    ],
)
def test_a_module_that_both_have_is_refused_in_one_line(file: str, ours: str, tmp_path: Path) -> None:
    theirs = write(tmp_path / file, "")
    arguments = ["train", "--set", "cluster.mode=local", "--run-dir", str(tmp_path / "run")]
    done = run("-m", "worldfleet", *arguments, path=[tmp_path, ROOT], cwd=tmp_path, check=False)
    named = theirs.parent if theirs.name == "extra.py" else theirs
    refused(done, named, ROOT / ours, "rename")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_data_is_no_module(tmp_path: Path) -> None:
    write(tmp_path / "learner" / "models" / "weights.bin", "")
    run("-c", "import worldfleet, learner.models", path=[tmp_path, ROOT], cwd=tmp_path)


def test_a_project_may_come_before_worldfleet(project: Path) -> None:
    code = "import envs.mine\nimport worldfleet\nimport envs.specs\nprint(envs.mine.__file__, envs.specs.__file__)"
    out = run("-c", code, path=[project, ROOT], cwd=project).stdout
    assert out.split() == [f"{project}/envs/mine.py", f"{ROOT}/envs/specs.py"]
    clash = write(project / "envs" / "names.py", "")
    done = run("-c", "import envs.names\nimport worldfleet", path=[project, ROOT], cwd=project, check=False)
    assert f"NameClash: {clash}" in done.stderr


def test_a_plain_module_that_came_first_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "envs.py", "")
    done = run("-c", "import envs\nimport worldfleet", path=[tmp_path, ROOT], cwd=tmp_path, check=False)
    assert f"NameClash: {tmp_path}/envs.py" in done.stderr


def test_the_path_may_grow_later(project: Path, tmp_path: Path) -> None:
    code = f"import worldfleet, sys, envs.specs\nsys.path.append({str(project)!r})\nimport envs.mine"
    run("-c", code, path=[ROOT], cwd=tmp_path)


def test_our_own_folder_is_no_clash_wherever_it_is_again(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    run("-m", "worldfleet", "presets", path=[link, ROOT, ROOT], cwd=tmp_path)
    installed = tmp_path / "installed"
    for name in ("worldfleet", "envs"):
        shutil.copytree(ROOT / name, installed / name)
    out = run("-c", "import worldfleet, envs.specs; print(envs.__path__)", path=[ROOT, installed], cwd=tmp_path).stdout
    assert out == f"['{ROOT}/envs']\n"


def test_a_checkout_takes_installed_kernels_that_fit_its_sources(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("worldfleet", "native"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("*.so"))
    code = "import worldfleet, native\nprint(native.__file__, native._native.__file__)"
    files = run("-c", code, path=[checkout, ROOT], cwd=tmp_path).stdout.split()
    assert files[0] == f"{checkout}/native/__init__.py"
    assert Path(files[1]).parent == ROOT / "native"
    write(checkout / "native" / "src" / "changed.cc", "")
    done = run("-c", code, path=[checkout, ROOT], cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert f"{checkout}/native/__init__.py" in done.stderr.splitlines()[-1]
    assert "make native" in done.stderr.splitlines()[-1]
