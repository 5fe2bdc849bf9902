"""Every one-step model trains, plans and is evaluated by the same algorithm, planner and policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.config import resolve
from cluster.evaluation import evaluate_run
from cluster.train import train
from learner.algorithms.pets_config import PetsName
from learner.models.members import load_member
from tests.docs.glossary import unexplained

pytestmark = pytest.mark.integration

MODELS = PetsName.__args__  # type: ignore[attr-defined]
ENVS = {"visual": "nav3d_image", "creature_latent": "nav3d_creature", "latent": "nav3d_creature"}


@pytest.mark.parametrize("algo", MODELS)
def test_a_model_trains_plans_and_is_evaluated(algo: str, tmp_path: Path) -> None:
    overrides = ["cluster.mode=local", "schedule.total_steps=384", "schedule.eval_max_steps=5"]
    config = resolve(algo, ENVS.get(algo, "nav3d"), "debug", overrides=overrides)
    assert config.algorithm.name == algo
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    metrics = {name for line in lines for name in line if "/" in name}
    terms = {name for name in metrics if name.startswith("learner/loss_") and name.endswith("member_0")}
    assert {"learner/loss_member_0", "learner/loss_state_member_0", "learner/loss_reward_member_0"} <= terms
    assert ("learner/loss_reconstruction" in metrics) == (config.algorithm.coder is not None)
    assert ("learner/loss_kl" in metrics) == (algo == "vae_dynamics")
    assert not unexplained(metrics)
    result = evaluate_run(tmp_path / "run", episodes=1, seed=0, gif_episodes=0)
    assert result["algorithm"] == algo
    assert result["policy_version"] > 0  # it planned
    files = sorted((tmp_path / "run").glob("**/world_model_member_*.pt"))
    assert len(files) == config.algorithm.ensemble.members
    assert load_member(files[0]).config.members == 1
