"""The command line: results on stdout, and bad input as one clear line with exit code 2."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest
import torch
import yaml

from cluster import cli
from cluster.bench.row import BenchRow
from cluster.cli import main
from cluster.config import resolve
from cluster.train import train
from envs.adapters import GymnasiumEnv
from learner import checkpoint

ALGORITHMS = (
    "creature_latent dreamer_v1 dreamer_v2 dreamer_v3 efficientzero ensemble gumbel_muzero latent mlp muzero pets "
    "planet sampled_muzero stochastic stochastic_ensemble vae_dynamics"
)
LOCAL = ["--scale", "debug", "--set", "cluster.mode=local"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line a refused command says."""
    code, out, err = run(capsys, *arguments)
    complaints = [line for line in err.splitlines() if line.startswith("worldfleet: error: ")]
    assert (code, out, len(complaints)) == (2, "", 1), err
    assert "Traceback" not in err
    return complaints[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished debug run; tests that damage it work on a copy."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(resolve("pets", "nav3d", "debug", overrides=["cluster.mode=local"]), path)
    return path


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", str(finished), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


def test_config_and_presets_print_results(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "config", "--scale", "debug", "--set", "seed=4")
    assert code == 0
    assert yaml.safe_load(out)["seed"] == 4
    code, out, _ = run(capsys, "presets")
    assert code == 0
    assert f"algorithms: {ALGORITHMS} visual" in out
    assert f"laptop has settings of its own for: {ALGORITHMS}" in out


def test_fidelity_refuses_other_algorithms(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = ["--output", str(tmp_path / "study")]
    assert "did you mean 'pets'?" in refused(capsys, "fidelity", "--algo", "petz", *output)
    assert "'dreamer_v3' (valid: pets)" in refused(capsys, "fidelity", "--algo", "dreamer_v3", *output)
    assert not (tmp_path / "study").exists()


def test_selections_are_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_dir = ["--run-dir", str(tmp_path / "run")]
    assert "did you mean 'pets'?" in refused(capsys, "train", "--algo", "pet", *run_dir)
    assert "did you mean 'laptop'?" in refused(capsys, "train", "--scale", "lapto", *run_dir)
    assert "did you mean 'batch_size'?" in refused(capsys, "train", "--set", "learner.batchsize=3", *run_dir)
    assert "'three'" in refused(capsys, "train", "--set", "learner.batch_size=three", *run_dir)
    assert "wind_std" in refused(capsys, "train", *LOCAL, "--set", "env.options.wind_st=3", *run_dir)
    assert "not-there.yaml" in refused(capsys, "train", "--config", "not-there.yaml", *run_dir)
    assert "NoSuchEnv" in refused(capsys, "train", *LOCAL, "--env", "gym:NoSuchEnv-v0", *run_dir)
    assert "discrete" in refused(capsys, "train", *LOCAL, "--env", "gym:CartPole-v1", *run_dir)
    assert not (tmp_path / "run").exists()


def test_run_directories_are_protected(capsys: pytest.CaptureFixture[str], copied: Path, tmp_path: Path) -> None:
    assert "--resume" in refused(capsys, "train", *LOCAL, "--run-dir", str(copied))
    assert "is not a run directory" in refused(capsys, "train", "--resume", str(tmp_path))
    assert "--episodes" in refused(capsys, "eval", "--run-dir", str(copied), "--episodes", "0")
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("format: 2", "format: 3"))
    assert "run format 3, this version reads 2" in refused(capsys, "eval", "--run-dir", str(copied))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--seed", "-1", "must be at least 0, got -1"),
        ("--seed", "1.5", "must be an integer, got 1.5"),
        ("--seed", "one", "must be an integer, got 'one'"),
        ("--episodes", "0", "must be at least 1, got 0"),
        ("--max-steps", "nan", "must be an integer"),
        ("--gif-episodes", "-2", "must be at least 0, got -2"),
    ],
)
def test_bad_numbers_are_refused_by_the_name_of_their_option(
    capsys: pytest.CaptureFixture[str], option: str, value: str, rule: str, tmp_path: Path
) -> None:
    line = refused(capsys, "eval", "--run-dir", str(tmp_path), option, value)
    assert f"argument {option}: {rule}" in line


def test_an_evaluation_is_written_also_without_pictures(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(self: GymnasiumEnv) -> None:
        raise NotImplementedError

    monkeypatch.setattr(GymnasiumEnv, "render", render)
    arguments = ["eval", "--run-dir", str(copied), "--episodes", "2e0", "--seed", "1e3", "--max-steps", "7"]
    code, out, _ = run(capsys, *arguments)
    summary = json.loads(out)
    assert (code, summary["episodes"], summary["seed"], summary["max_steps"], summary["cut"]) == (0, 2, 1000, 7, 2)
    assert [record.getMessage() for record in caplog.records if "GIF" in record.getMessage()] == [
        "no GIF of nav3d: NotImplementedError"
    ]
    (record,) = copied.glob("eval/*_seed1000_max_steps=7.jsonl")
    assert [json.loads(line)["cut"] for line in record.read_text().splitlines()] == [True, True]
    assert not list(copied.glob("eval/*.gif"))


def damage(checkpoint: Path, how: str) -> None:
    file = checkpoint / "learner.pt"
    data = bytearray(file.read_bytes())
    if how == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data if how == "flip" else data[: len(data) // 2])


@pytest.mark.parametrize("how", ["truncate", "flip", "remove"])
def test_a_corrupt_checkpoint_is_named(
    how: str, capsys: pytest.CaptureFixture[str], copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = sorted(copied.glob("checkpoints/step_*"))
    damage(newest, how)
    assert "learner.pt" in refused(capsys, "eval", "--run-dir", str(copied))
    if how == "flip":  # the older one takes its place
        assert run(capsys, "train", "--resume", str(copied), "--set", "schedule.total_steps=2100")[0] == 0
        [line] = [text for record in caplog.records if "takes its place" in (text := record.getMessage())]
        assert newest.name in line
        assert older.name in line
        assert (copied / "checkpoints" / f"damaged-{newest.name}").is_dir()
        return
    damage(older, how)
    before = sorted(path.name for path in copied.rglob("*"))
    assert newest.name in refused(capsys, "train", "--resume", str(copied))
    after = sorted(path.name for path in copied.rglob("*") if path.name != ".lock")
    assert after == [name for name in before if name != ".lock"]


def test_a_finished_run_says_so(
    capsys: pytest.CaptureFixture[str], copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.read_bytes() for path in copied.glob("*.*") if path.is_file()}
    with caplog.at_level("INFO"):
        assert run(capsys, "train", "--resume", str(copied))[0] == 0
    assert any("is finished" in text and "schedule.total_steps" in text for text in caplog.messages)
    assert {path: path.read_bytes() for path in copied.glob("*.*") if path.is_file()} == before


def test_a_run_without_a_checkpoint_overwrites_no_metrics(capsys: pytest.CaptureFixture[str], copied: Path) -> None:
    for saved in copied.glob("checkpoints/step_*"):
        subprocess.run(["rm", "-r", str(saved)], check=True)
    before = (copied / "metrics.jsonl").read_text()
    assert "--start-again" in refused(capsys, "train", "--resume", str(copied))
    assert (copied / "metrics.jsonl").read_text() == before
    assert run(capsys, "train", "--resume", str(copied), "--start-again")[0] == 0
    assert (copied / "metrics.jsonl").read_text() != before


def test_what_another_scale_would_change_is_said(
    capsys: pytest.CaptureFixture[str], copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = ["train", *LOCAL, "--run-dir", str(copied), "--resume-auto", "--config", str(tmp_path / "own.yaml")]
    (tmp_path / "own.yaml").write_text("planner: {horizon: 3}\n")
    assert "planner.horizon" in refused(capsys, *again)
    (tmp_path / "own.yaml").write_text("schedule: {log_every: 77}\n")
    assert run(capsys, *again)[0] == 0
    assert any("schedule.log_every=500; --set schedule.log_every=77" in text for text in caplog.messages)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert (code, out.split()[0]) == (0, "worldfleet")
    assert out.split()[1][0].isdigit()


def test_a_taken_metrics_port_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(
            capsys, "train", *LOCAL, "--set", f"cluster.metrics_port={port}", "--run-dir", str(tmp_path / "run")
        )
    assert f"cluster.metrics_port {port}" in line
    assert "in use" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("replay.max_bytes=10", "max_bytes"),
        ("replay.max_bytes=1e30", "replay.max_bytes"),
        ("replay.num_shards=10000000", "replay.num_shards"),
        ("roles.rollout.count=1e9", "roles.rollout.count"),
    ],
)
def test_a_refused_start_leaves_nothing(
    setting: str, named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "train", *LOCAL, "--set", setting, "--run-dir", str(tmp_path / "runs" / "one"))
    assert named in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "env.options.wind_std=abc"], "env.options.wind_std must be a number"),
        (["--set", "env.options.wind_sd=1"], "unknown option 'env.options.wind_sd' (did you mean 'wind_std'?)"),
        (["--set", "env.eval_options.wind_sd=1"], "'env.eval_options.wind_sd'"),
        (["--set", "learner.batch_size=1e9"], "learner.batch_size"),
        (["--set", "schedule.total_steps=1e30"], "schedule.total_steps must be an integer of 64 bits"),
        (["--set", "actors.envs_per_actor=1e9"], "actors.envs_per_actor must be at most"),
        (["--set", "planner.method=mcts"], "planner.max_depth must be at least 1 for ensembles"),
        (["--env", "nav3d_image"], "--algo dreamer_v3, dreamer_v1, planet fit"),
        (["--env", "gym:CartPole-v1"], "--algo dreamer_v3, muzero fit"),
        (["--env", "gym:Taxi-v3"], "algorithm.observation_key"),
    ],
)
def test_what_train_refuses_config_refuses_alike(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "config", *LOCAL, *arguments)
    assert named in line
    assert refused(capsys, "train", *LOCAL, *arguments, "--run-dir", str(tmp_path / "run")) == line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_gpu_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = ["--scale", "debug", "--set", "learner.device=cuda"]
    line = refused(capsys, "train", *arguments, "--run-dir", str(tmp_path / "run"))
    assert "learner.device is 'cuda'" in line
    assert refused(capsys, "config", *arguments) == line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["bogus", "", "TOKEN"])
def test_a_run_on_ray_is_guarded_or_refused(
    mode: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    line = refused(capsys, "train", "--scale", "debug", "--run-dir", str(tmp_path / "run"))
    assert "RAY_AUTH_MODE" in line
    assert list(tmp_path.iterdir()) == []


def test_a_refused_change_is_not_kept(capsys: pytest.CaptureFixture[str], copied: Path) -> None:
    before = (copied / "config.yaml").read_text(), (copied / "DONE.json").read_text()
    assert "max_bytes" in refused(capsys, "train", "--resume", str(copied), "--set", "replay.max_bytes=1000")
    assert ((copied / "config.yaml").read_text(), (copied / "DONE.json").read_text()) == before
    assert '"event": "refused"' in (copied / "events.jsonl").read_text()
    assert train(None, copied, resume=True, overrides=["schedule.total_steps=2100"]).steps >= 2100
    assert "total_steps: 2100" in (copied / "config.yaml").read_text()


def test_a_run_continues_as_it_is(capsys: pytest.CaptureFixture[str], copied: Path) -> None:
    for flag, value in (("--algo", "pets"), ("--env", "nav3d"), ("--scale", "debug"), ("--seed", "0")):
        assert flag in refused(capsys, "train", "--resume", str(copied), flag, value)
    again = ["train", *LOCAL, "--run-dir", str(copied), "--resume-auto"]
    assert "--algo pets" in refused(capsys, *again, "--algo", "dreamer_v3")
    assert "--seed 0" in refused(capsys, *again, "--seed", "3")
    assert "learner.batch_size=8" in refused(capsys, *again, "--set", "learner.batch_size=8")
    assert run(capsys, *again, "--set", "schedule.total_steps=2100")[0] == 0
    assert "total_steps: 2100" in (copied / "config.yaml").read_text()


@pytest.mark.parametrize("flag", ["--from-replay", "--run-dir", "--resume", "--config"])
def test_an_empty_path_is_none(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert flag in refused(capsys, "train", *LOCAL, flag, "")


def test_a_full_disk_keeps_what_was_saved(finished: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(run_dir)], check=True)
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("total_steps: 2000", "total_steps: 4000"))
    saved = {path: path.stat().st_size for path in run_dir.glob("checkpoints/step_*/*")}

    def limit() -> None:  # writes beyond this size fail as on a full disk, with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    done = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
         f"from cluster.cli import main; main(['train', '--resume', {str(run_dir)!r}])"],
        capture_output=True, text=True, preexec_fn=limit, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("worldfleet: error: ")
    assert {path: path.stat().st_size for path in saved} == saved
    assert not list(run_dir.glob("checkpoints/*.tmp*"))


def test_an_evaluation_keeps_its_result_whatever_happens_to_its_files(
    capsys: pytest.CaptureFixture[str], copied: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [word for i in range(20) for word in ("--set", f"env.step_timeout_seconds={100 + i}")]
    asked = ["eval", "--run-dir", str(copied), "--episodes", "1", "--max-steps", "3", *many]
    code, out, _ = run(capsys, *asked)
    assert (code, json.loads(out)["episodes"]) == (0, 1)
    [file] = copied.glob("eval/*max_steps=3*.json")
    assert len(file.name) < 200

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("cluster.evaluation.write_atomic", full)
    code, out, _ = run(capsys, *asked)
    assert (code, json.loads(out)["episodes"]) == (0, 1)
    assert "is not written: No space left on device" in caplog.text
    assert not [path for path in copied.glob("eval/*") if path.stat().st_size == 0]


@pytest.mark.parametrize("how", ["part", "value", "pickle"])
def test_a_checkpoint_of_something_else_is_named(how: str, capsys: pytest.CaptureFixture[str], copied: Path) -> None:
    newest = max(copied.glob("checkpoints/step_*"))
    state = checkpoint.load(newest)
    state.pop("learner") if how == "part" else state["learner"]["algorithm"].clear()
    shutil.rmtree(copied / "checkpoints")
    saved = checkpoint.save(copied / "checkpoints", int(newest.name[5:17]), state)
    if how == "pickle":
        torch.save(Path("code"), saved / "learner.pt")
        content = (saved / "learner.pt").read_bytes()
        manifest = json.loads((saved / "manifest.json").read_text())
        manifest["files"]["learner.pt"] = {"size": len(content), "crc32": zlib.crc32(content)}
        (saved / "manifest.json").write_text(json.dumps(manifest))
    for command in (
        ["eval", "--episodes", "1", "--run-dir"],
        ["train", "--set", "schedule.total_steps=2100", "--resume"],
    ):
        assert saved.name in refused(capsys, *command, str(copied))


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "| head -c 1"])
def test_a_closed_output_is_no_error(redirection: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m worldfleet presets {redirection}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_output_that_is_not_utf_8_takes_what_it_can(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "worldfleet", "doctor"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_ledger_needs_ray(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["train", *LOCAL, "--set", "cluster.ledger=true", "--run-dir", str(tmp_path / "run")]
    assert "cluster.mode=ray" in refused(capsys, *asked)
    assert not (tmp_path / "run").exists()


def test_steps_of_other_options_are_said(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ["train", *LOCAL, "--from-replay", str(finished), "--set", "schedule.fit_updates=1"]
    other = ["--set", "env.options.wind_std=0.5", "--run-dir", str(tmp_path / "run")]
    assert run(capsys, *asked, *other)[0] == 0
    assert "env.options.wind_std=its default, the run has 0.5" in caplog.text


def test_every_option_says_what_it_is_and_its_default() -> None:
    parsers: list[argparse.ArgumentParser] = [cli._parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
                continue
            assert action.help, (parser.prog, action.dest)
            text = parser._get_formatter()._get_help_string(action)  # type: ignore[attr-defined]
            told = action.default in (None, False, argparse.SUPPRESS) or action.default == [] or "default" in text
            assert told, (parser.prog, action.dest)
    assert len(parsers) > 12


def test_rows_of_a_benchmark_are_told_as_they_come_and_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = "a case with a name that no terminal of eighty columns could hold beside its six other columns, " * 2
    module = types.SimpleNamespace(run=lambda: iter([BenchRow("replay", case, 1.5, "GB/s", 1, "memcpy", 3.0)]))
    monkeypatch.setitem(sys.modules, cli.BENCHES["replay"], module)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit):
        cli.main(["bench", "replay"])
    assert case in capsys.readouterr().out
    assert f"{case}: 1.5 GB/s" in caplog.text
