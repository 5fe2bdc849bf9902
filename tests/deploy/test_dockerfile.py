"""The container recipe, read as text: what a build would trip over, without a build."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    """(keyword, argument) of each instruction, continuation lines joined, comments dropped."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(keyword, argument) for keyword, _, argument in (line.partition(" ") for line in joined.splitlines())]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage by its name, in order."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for keyword, argument in instructions():
        if keyword == "FROM":
            base, as_word, name = argument.split()
            assert base == "${BASE}"
            assert as_word == "AS"
            found[name] = []
        elif name:
            found[name].append((keyword, argument))
    return found


def test_the_wheel_is_built_in_a_stage_of_its_own() -> None:
    assert list(stages()) == ["wheel", "packages", "runtime"]
    assert any("build --wheel" in argument for _, argument in stages()["wheel"])
    for name in ("packages", "runtime"):
        assert not re.search(r"g\+\+|gcc|cmake|build-essential", str(stages()[name])), f"{name} has a compiler"


def test_the_runtime_is_not_root() -> None:
    users = [argument for keyword, argument in stages()["runtime"] if keyword == "USER"]
    assert users == ["1000:1000"]
    last_run = max(index for index, (keyword, _) in enumerate(stages()["runtime"]) if keyword == "RUN")
    assert [keyword for keyword, _ in stages()["runtime"]].index("USER") > last_run


def test_ray_and_worldfleet_are_on_the_path() -> None:
    [path] = [re.search(r"\bPATH=(\S+)", a)[1] for k, a in stages()["runtime"] if k == "ENV" and "PATH=" in a]  # type: ignore[index]
    assert path.split(":")[0] == "/opt/worldfleet/bin"
    assert ("COPY", "--from=packages /opt/worldfleet /opt/worldfleet") in stages()["runtime"]


def test_everything_copied_exists_and_reaches_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for _, argument in (pair for stage in stages().values() for pair in stage if pair[0] == "COPY"):
        words = shlex.split(argument)
        if any(word.startswith("--from=") for word in words):
            continue
        *sources, _destination = [word for word in words if not word.startswith("--")]
        copied |= {source.removeprefix("./") for source in sources}
    assert copied == allowed
    for source in copied:
        assert (ROOT / source).exists(), source


def test_all_packages_are_copied() -> None:
    text = str(stages()["wheel"])
    for package in ("worldfleet", "cluster", "learner", "actors", "envs", "planners", "native"):
        assert f"'{package} ./{package}'" in text


def test_dependencies_are_pinned_and_name_no_host() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    installs = re.findall(r"pip install[^\n&]*", text)
    assert len(installs) == 2
    assert all("-c " in install and "constraints.txt" in install for install in installs)
    assert not re.search(r"https?://|--index-url|--extra-index-url|--find-links", text)
