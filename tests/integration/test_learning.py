"""Short runs in one process whose losses must fall and whose returns must rise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.config import resolve
from cluster.train import train
from envs.testing.reach import REACH_NAME

pytestmark = [pytest.mark.integration, pytest.mark.learning]

OVERRIDES = [
    "cluster.mode=local",
    "seed=0",
    "algorithm.behaviour.horizon=3",
    "algorithm.behaviour.discount=0.5",
    "algorithm.optimizer.lr=0.01",
    "algorithm.optimizer.warmup_steps=20",
    "learner.sequence_length=7",
    "replay.limiter.samples_per_insert=24",
    "schedule.total_steps=3072",
    "schedule.log_every=512",
    "schedule.eval_every=100000",
]


@pytest.mark.timeout(300)
def test_dreamer_v3_learns_to_reach_a_target(tmp_path: Path) -> None:
    """Random actions return -12.4 on average, the best ones 0; half of that is asked for."""
    train(resolve("dreamer_v3", REACH_NAME, "debug", overrides=OVERRIDES), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    returns = [line["rollout/episode_return"] for line in lines]
    losses = [line["learner/loss"] for line in lines]
    assert returns[0] < -10.0
    assert returns[-1] > -6.0
    assert losses[-1] < 0.7 * losses[0]
