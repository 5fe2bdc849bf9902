"""The shape of the tree: what may import what, where Ray may be, and how packages look."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("worldfleet", "cluster", "learner", "actors", "envs", "planners", "native")
MAX_LINES = 600

PURE = ("learner", "actors", "envs", "planners", "native")
"""Packages whose modules, but for service files, must work where Ray is not."""


def sources(*suffixes: str) -> list[Path]:
    """Source files of the project, without what builds leave behind."""
    folders = [ROOT / name for name in (*PACKAGES, "deploy", "tests", ".ci")]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes)


def pure_modules() -> list[str]:
    """Every module of PURE by its full name."""
    found = []
    for package in PURE:
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "service":
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(found)


def test_import_contracts_hold() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_pure_modules_import_without_ray() -> None:
    modules = pure_modules()
    assert len(modules) > 10
    code = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    if 'ray' in sys.modules:\n"
        "        sys.exit(f'{name} imports ray')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(modules)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_actors_without_networks_import_without_torch() -> None:
    """It takes seconds and some 200 MB of every process: of a shard, and of rollouts and planners without a network."""
    modules = "cluster.build, cluster.roles, actors.service, actors.planning, actors.replay.service"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_ours(name: str) -> None:
    """Distributions called `envs`, `cluster` or `actors` exist; none of them may shadow ours."""
    origin = importlib.import_module(name).__file__
    assert origin is not None
    assert Path(origin).resolve() == ROOT / name / "__init__.py"


def test_init_files_hold_a_docstring_only() -> None:
    for path in sources(".py"):
        if path.name != "__init__.py" or path.parts[len(ROOT.parts)] in ("tests", "native", "worldfleet"):
            continue
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, f"{path} holds more than a docstring"
        assert isinstance(body[0], ast.Expr), path
        assert isinstance(body[0].value, ast.Constant), path


def test_every_folder_of_modules_is_a_package() -> None:
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py"


def test_no_file_is_too_long() -> None:
    for path in sources(".py", ".cc", ".h"):
        lines = path.read_text().count("\n")
        assert lines <= MAX_LINES, f"{path} has {lines} lines, more than {MAX_LINES}"


def test_ray_is_named_in_cluster_and_service_files_only() -> None:
    for path in sources(".py"):
        top = path.parts[len(ROOT.parts)]
        if top in ("cluster", "tests", "deploy", ".ci") or path.name == "service.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            assert not any(name.split(".")[0] == "ray" for name in names), f"{path} imports ray"


def test_kernels_do_not_know_python() -> None:
    for folder in ("src", "include"):
        for path in (ROOT / "native" / folder).rglob("*"):
            if path.is_file():
                assert "Python.h" not in path.read_text(), path
                assert "pybind11" not in path.read_text(), path
