"""Projects with packages of our names, each in a folder and a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from worldfleet.names import NAMES

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

INIT = """
import gymnasium
from envs.mine import Mine
gymnasium.register("Mine-v0", entry_point="envs:Mine")
HERE = __file__
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our packages and nothing else, as where a wheel is installed."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("worldfleet", *NAMES):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with packages `envs`, `cluster` and `tests`, and a folder `actors` without `__init__.py`."""
    home = tmp_path / "project"
    for package in ("envs", "cluster", "tests"):
        write(home / package / "__init__.py", INIT if package == "envs" else "")
    for file, text in {
        "envs/mine.py": MINE, "actors/bounds.py": "HIGH = 1.0", "cluster/mine.py": "", "tests/bounds.py": "LOW = -1.0"
    }.items():  # fmt: skip
        write(home / file, text)
    return home


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def run(*words: str, path: list[Path], cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Python with these folders on its path, and the packages we need, but not an editable install of ours."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    packages = Path(numpy.__file__).parents[1]
    environment = {**kept, "PYTHONPATH": os.pathsep.join(map(str, [*path, packages])), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", *words]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("ours_first", [True, False])
def test_modules_have_their_owners_in_any_order_of_the_path(project: Path, ours_first: bool, site: Path) -> None:
    code = """
import worldfleet, sys
assert "numpy" not in sys.modules, "the name alone is light"
import actors.bounds, cluster.mine, envs.mine, envs.specs, cluster.config, tests.bounds
print(envs.mine.__file__, envs.specs.__file__, cluster.mine.__file__, cluster.config.__file__, tests.bounds.__file__)
"""
    path = [site, project] if ours_first else [project, site]
    files = run("-c", code, path=path, cwd=project).stdout.split()
    assert files == [
        f"{project}/envs/mine.py",
        f"{ROOT}/envs/specs.py",
        f"{project}/cluster/mine.py",
        f"{ROOT}/cluster/config.py",
        f"{project}/tests/bounds.py",
    ]


def test_a_package_of_the_project_runs_its_init_file_too(project: Path, site: Path) -> None:
    code = "import worldfleet, envs, envs.registry; print(envs.HERE, envs.__file__, len(envs.__path__))\n"
    code += "env = envs.registry.make_env('gym:envs:Mine-v0'); print(env.reset().observation)"
    out = run("-c", code, path=[project, site], cwd=project).stdout.splitlines()
    assert out[0].split() == [f"{project}/envs/__init__.py", f"{ROOT}/envs/__init__.py", "2"]
    assert "[0., 0.]" in out[1]


def test_spawned_simulators_and_pickles_find_both(project: Path, tmp_path: Path, site: Path) -> None:
    code = """
import worldfleet, pickle
from functools import partial
from envs.adapters import GymnasiumEnv
from envs.mine import Mine
from envs.subprocess_vector import SubprocessVectorEnv

assert pickle.loads(pickle.dumps(Mine)) is Mine
env = SubprocessVectorEnv([partial(GymnasiumEnv, Mine(), "mine")] * 2, 2)
env.reset([0, 1])
print(env.step([[0.0], [0.0]]).reward)
env.close()
"""
    assert run("-c", code, path=[project, site], cwd=tmp_path).stdout == "[0.5 0.5]\n"


def test_the_command_finds_the_project_in_the_current_folder(project: Path, tmp_path: Path, site: Path) -> None:
    """As the console script does: the folder of the script is on the path, the current one is not."""
    code = (
        "from worldfleet.__main__ import main\ntry:\n    main()\nfinally:\n    import envs.mine\n    print(envs.mine)"
    )
    script = write(tmp_path / "bin" / "script.py", code)
    done = run(str(script), "presets", path=[site], cwd=project)
    assert "scales: debug" in done.stdout
    assert f"{project}/envs/mine.py" in done.stdout


@pytest.mark.parametrize(
    ("file", "ours"), [("cluster/config.py", "cluster/config.py"), ("envs.py", "envs/__init__.py")]
)
def test_the_command_refuses_a_module_that_both_have_in_one_line(
    file: str, ours: str, tmp_path: Path, site: Path
) -> None:
    theirs = write(tmp_path / file, "")
    done = run("-m", "worldfleet", "presets", path=[tmp_path, site], cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("worldfleet: error: ")
    assert all(words in line for words in (str(theirs), str(ROOT / ours), "rename"))


@pytest.mark.parametrize("file", ["envs/nav3d/__init__.py", "envs/nav3d/extra.py"])
def test_a_folder_of_modules_that_both_have_is_refused(file: str, tmp_path: Path, site: Path) -> None:
    theirs = write(tmp_path / file, "")
    done = run("-c", "import worldfleet, envs.nav3d", path=[tmp_path, site], cwd=tmp_path, check=False)
    named = theirs if theirs.name == "__init__.py" else theirs.parent
    assert f"NameClash: {named} and worldfleet's {ROOT}/envs/nav3d/__init__.py" in done.stderr


def test_a_folder_of_data_is_no_module(tmp_path: Path, site: Path) -> None:
    write(tmp_path / "learner" / "models" / "weights.bin", "")
    run("-c", "import worldfleet, learner.models", path=[tmp_path, site], cwd=tmp_path)


def test_a_regular_package_may_come_before_worldfleet(tmp_path: Path, site: Path) -> None:
    write(tmp_path / "envs" / "__init__.py", "from envs.mine import X")
    write(tmp_path / "envs" / "mine.py", "X = 1\nimport worldfleet")
    code = "import envs.mine, envs.specs\nprint(envs.X, envs.mine.__file__, envs.specs.__file__)"
    out = run("-c", code, path=[tmp_path, site], cwd=tmp_path).stdout
    assert out.split() == ["1", f"{tmp_path}/envs/mine.py", f"{ROOT}/envs/specs.py"]
    clash = write(tmp_path / "envs" / "names.py", "")
    done = run("-c", "import envs.names", path=[tmp_path, site], cwd=tmp_path, check=False)
    assert f"NameClash: {clash}" in done.stderr


def test_a_plain_module_that_came_first_is_refused(tmp_path: Path, site: Path) -> None:
    write(tmp_path / "envs.py", "")
    done = run("-c", "import envs\nimport worldfleet", path=[tmp_path, site], cwd=tmp_path, check=False)
    assert f"NameClash: {tmp_path}/envs.py" in done.stderr


def test_the_path_may_grow_later(project: Path, tmp_path: Path, site: Path) -> None:
    code = f"import worldfleet, sys, envs.specs\nsys.path.append({str(project)!r})\nimport envs.mine"
    run("-c", code, path=[site], cwd=tmp_path)


def test_our_own_folder_is_no_clash_wherever_it_is_again(tmp_path: Path, site: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    run("-m", "worldfleet", "presets", path=[link, ROOT, site], cwd=tmp_path)
    installed = tmp_path / "installed"
    for name in ("worldfleet", "envs"):
        shutil.copytree(ROOT / name, installed / name)
    out = run("-c", "import worldfleet, envs.specs; print(envs.__path__)", path=[ROOT, installed], cwd=tmp_path).stdout
    assert out == f"['{ROOT}/envs']\n"


def test_a_checkout_takes_installed_kernels_that_fit_its_sources(tmp_path: Path, site: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("worldfleet", "native"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("*.so"))
    code = "import worldfleet, native\nprint(native.__file__, native._native.__file__)"
    files = run("-c", code, path=[checkout, site], cwd=tmp_path).stdout.split()
    assert files[0] == f"{checkout}/native/__init__.py"
    assert Path(files[1]).resolve().parent == ROOT / "native"
    write(checkout / "native" / "src" / "changed.cc", "")
    done = run("-c", code, path=[checkout, site], cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert f"{checkout}/native/__init__.py" in done.stderr.splitlines()[-1]
    assert "make native" in done.stderr.splitlines()[-1]
