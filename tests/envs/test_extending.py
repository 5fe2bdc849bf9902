"""docs/extending/environment.md, followed: one record and its file, and nothing else knows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from envs.registry import ENVIRONMENTS, Entry, env_spec, make_env, make_vector_env
from envs.vector import SerialVectorEnv

TOY = Entry(bare="tests.envs.toy_env:make", spec="tests.envs.toy_env:spec")


def test_a_record_is_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "cart", TOY)
    assert env_spec("cart", mass=2.0) == make_env("cart", mass=2.0).spec
    with pytest.raises(ValueError, match=r"unknown environment 'carts' \(did you mean 'cart'"):
        make_env("carts")


def test_its_metrics_reach_every_figure_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "toy:", TOY)
    sets = ["cluster.mode=local", "schedule.total_steps=600", "schedule.eval_every=500", "schedule.eval_episodes=2"]
    run_dir = tmp_path / "run"
    words = ["train", "--algo", "pets", "--env", "toy:cart", "--scale", "debug", "--run-dir", str(run_dir)]
    with pytest.raises(SystemExit) as ended:
        main([*words, *(word for assignment in sets for word in ("--set", assignment))])
    assert ended.value.code == 0
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for name in ("energy", "speed", "success_rate"):
        assert f"rollout/{name}" in lines[-1]
        assert any(f"eval/{name}" in line for line in lines)
    assert 0.0 < lines[-1]["rollout/speed"] < 2.0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["eval", "--run-dir", str(run_dir), "--episodes", "3", "--gif-episodes", "0"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["metrics"].keys() == {"is_success", "energy", "speed"}
    assert summary["metrics"]["is_success"] == summary["success_rate"]


def test_a_process_holds_no_more_environments_than_the_entry_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "cart", Entry(bare="tests.envs.toy_env:make", envs_per_process=1))
    with pytest.raises(ValueError, match=r"cart runs 1 environments in a process, not 3: set env\.mode=subprocess"):
        make_vector_env("cart", 3)
    spread: list[int] = []

    def record(factories: list[Any], workers: int, share: float, step_timeout_seconds: float) -> SerialVectorEnv:
        spread.append(workers)
        return SerialVectorEnv(factories)

    monkeypatch.setattr("envs.subprocess_vector.SubprocessVectorEnv", record)
    make_vector_env("cart", 300, "subprocess", num_workers=1).close()
    assert spread == [300]


def test_what_an_entry_needs_is_looked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "cart", Entry(bare="nowhere:make", program="no-such-simulator"))
    with pytest.raises(ValueError, match="cart needs the program 'no-such-simulator'"):
        make_env("cart")
