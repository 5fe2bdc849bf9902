"""Settings without effect are found, others are not."""

from __future__ import annotations

import pytest

from cluster.config import resolve
from cluster.idle_keys import idle_keys


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("roles.inference.cpus=3", "the run has no inference actors"),
        ("reanalyze.batch_size=8", "reanalyze.fraction is 0"),
        ("schedule.eval_episodes=7", "schedule.eval_every is 0"),
        ("roles.rollout.cpus=2", None),
        ("roles.inference.count=0", None),
        ("learner.batch_size=32", None),
    ],
)
def test_settings_without_effect(override: str, reason: str | None) -> None:
    overrides = ["schedule.eval_every=0", override]
    found = idle_keys(resolve("pets", "nav3d", "debug", overrides=overrides), overrides)
    assert found == ({} if reason is None else {override.partition("=")[0]: reason})
