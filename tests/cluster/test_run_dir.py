"""The run directory: creation, refusals and marks."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from cluster import build
from cluster.config import EnvConfig, RunConfig
from cluster.run_dir import RunDir, replacing, write_atomic
from envs import registry


def test_create_then_open_gives_the_configuration_back(tmp_path: Path) -> None:
    config = RunConfig(seed=9)
    RunDir.create(tmp_path / "run", config).close()
    assert RunDir.open(tmp_path / "run")[1] == config


def test_a_directory_with_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    with pytest.raises(ValueError, match="is not empty"):
        RunDir.create(tmp_path, RunConfig())
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_other_formats_and_damage_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    RunDir.create(run, RunConfig()).close()
    text = (run / "config.yaml").read_text()
    for broken, message in (
        (text.replace("format: 2", "format: 99"), "run format 99, this version reads 2"),
        ("{", "is damaged"),
        ("\n".join(text.splitlines()[1:-1]) + "\nsurprise: 1\n", "unknown configuration key 'surprise'"),
    ):
        (run / "config.yaml").write_text(broken)
        with pytest.raises(ValueError, match=message):
            RunDir.open(run)
    with pytest.raises(ValueError, match="is not a run directory"):
        RunDir.open(tmp_path)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95, 0.9999])
def test_a_configuration_that_is_cut_off_is_named_and_never_taken(tmp_path: Path, part: float) -> None:
    RunDir.create(tmp_path / "run", RunConfig()).close()
    file = tmp_path / "run" / "config.yaml"
    text = file.read_text()
    cut = text[: int(part * len(text))]
    for damaged in (cut, cut[: cut.rindex("\n") + 1], text.replace("seed: 0", "seed: 1")):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=r"run/config\.yaml"):
            RunDir.open(tmp_path / "run")


def test_a_configuration_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", RunConfig(seed=3)).close()
    file = tmp_path / "run" / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("# worldfleet run, resolved configuration\n" + "".join(lines[1:-1]))
    assert RunDir.open(tmp_path / "run")[1].seed == 3


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write_atomic(file, "old")

    def full(text: str) -> None:
        with replacing(file) as temporary:
            temporary.write_text(text)
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        full("half")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("table.csv", "old")]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path / "run", RunConfig())
    second = RunDir.open(tmp_path / "run")[0]
    with pytest.raises(ValueError, match="is in use by another run"):
        second.acquire()
    first.close()
    second.acquire()
    second.close()


def test_a_run_has_one_mark(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", RunConfig())
    run.mark(run.stop_marker, reason="SIGTERM", step=3)
    run.mark(run.done_marker, reason="done", step=5)
    assert not run.stop_marker.exists()
    assert json.loads(run.done_marker.read_text()) == {"reason": "done", "step": 5}
    run.close()


def test_a_failed_atomic_write_keeps_the_old_text(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(file, "\ud800")
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "options"), [("nav3d", {"layout": "random"}), ("gym:FrozenLake-v1", {}), ("gym:Pendulum-v1", {"g": 9.0})]
)
def test_the_spec_of_a_run_is_known_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object]
) -> None:
    config = RunConfig(env=EnvConfig(name=name, options=options))
    spec = build.env_spec(config)
    run_dir = RunDir.create(tmp_path / "run", config)
    run_dir.write_spec(config, spec)
    run_dir.close()
    monkeypatch.setattr(registry, "_specs", {})
    again = RunDir.open(tmp_path / "run")[1]
    assert registry.known_spec(name, options) == spec
    monkeypatch.setattr(registry, "make_env", None)
    assert build.env_spec(again) == spec
    (tmp_path / "run" / "spec.json").write_text('{"name": 3}')
    with pytest.raises(ValueError, match=r"spec\.json is damaged; delete it"):
        RunDir.open(tmp_path / "run")
