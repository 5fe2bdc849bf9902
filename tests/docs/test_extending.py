"""The guides to extending worldfleet, followed word by word."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cluster import build
from cluster.config import RunConfig, build_run, resolve
from cluster.evaluation import evaluate_run
from cluster.reader import read_yaml
from cluster.roles import serving_role
from cluster.train import train
from cluster.tree import to_tree

GUIDES = Path(__file__).parents[2] / "docs" / "extending"


def code(guide: str, language: str) -> str:
    """The code of a language in a guide; of a diff, the lines it adds."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)
    assert blocks, f"{guide} has no {language}"
    return "".join(re.sub(r"^\+", "", line) for line in "".join(blocks).splitlines(keepends=True))


def test_an_algorithm_is_a_record_and_the_file_it_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("learner.algorithms.mean_reward")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code("algorithm.md", "python"), vars(module))
    monkeypatch.setattr(build, "FAMILIES", dict(build.FAMILIES))
    exec(code("algorithm.md", "diff"), dict(vars(build)))
    preset = read_yaml(code("algorithm.md", "yaml"), "the preset")

    overrides = ["cluster.mode=local", "schedule.total_steps=1000", "schedule.pretrain_updates=3"]
    others = to_tree(resolve("pets", "nav3d", "debug", overrides=overrides))
    config: RunConfig = build_run({**others, **preset})
    assert serving_role(config) == "inference"
    assert train(config, tmp_path / "run").reason == "done"
    assert train(None, tmp_path / "run", resume=True, overrides=["schedule.total_steps=1500"]).steps >= 1500
    assert evaluate_run(tmp_path / "run", episodes=2, seed=0, gif_episodes=0)["algorithm"] == "mean_reward"
