"""Install a wheel into an empty virtual environment and import it from another directory.

Third-party packages are read from the running interpreter's site-packages by a path entry, which runs none of its
`.pth` files: the development install is out of reach and the six packages can come from the wheel only.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

PACKAGES = ("cluster", "learner", "actors", "envs", "planners", "native")
FOREIGN_SUFFIXES = (".cc", ".h", ".cpp", ".hpp", ".o", ".a", "CMakeLists.txt")

PROBE = """
import importlib, importlib.resources, pathlib, sys
home = pathlib.Path(sys.prefix).resolve()
for name in sys.argv[1:]:
    origin = pathlib.Path(importlib.import_module(name).__file__).resolve()
    assert origin.is_relative_to(home), f"{name} was imported from {origin}, not from the wheel"
import native, cluster.cli
presets = list((importlib.resources.files("cluster") / "presets").rglob("*.yaml"))
assert presets, "no presets were installed"
"""


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
        subprocess.run([home / "bin" / "worldfleet", "presets"], cwd=scratch, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Check the wheel named on the command line."""
    wheel = Path(sys.argv[1]).resolve()
    check_contents(wheel)
    check_install(wheel)
    sys.stderr.write(f"{wheel.name} installs and imports by itself\n")


if __name__ == "__main__":
    main()
