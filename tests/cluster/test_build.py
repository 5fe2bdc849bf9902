"""Wiring of environments: training and evaluation options, and the backend that a run names."""

from __future__ import annotations

import pytest

from cluster import build
from cluster.config import resolve


def test_evaluations_take_their_own_options() -> None:
    overrides = ["env.options.max_episode_steps=50", "env.eval_options.max_episode_steps=20"]
    config = resolve("pets", "nav3d", "debug", overrides=overrides)
    assert build.env_backend(config) is None
    assert build.env_spec(config).max_episode_steps == 50
    evaluator = build.evaluator(config, episodes=1, seed=0)
    assert evaluator._env.spec.max_episode_steps == 20
    evaluator.close()


def test_evaluations_that_do_not_fit_the_policy_are_refused() -> None:
    config = resolve("pets", "nav3d", "debug", overrides=["env.eval_options.layout=random"])
    with pytest.raises(ValueError, match=r"eval_options .*random.* change what a policy of nav3d sees"):
        build.env_backend(config)


def test_rollouts_of_racing_take_envpool_and_evaluations_gymnasium() -> None:
    pytest.importorskip("envpool")
    pytest.importorskip("Box2D")
    config = resolve("pets", "car_racing", "debug")
    assert (build.env_backend(config) or "").startswith("envpool ")
    evaluator = build.evaluator(config, episodes=1, seed=0)
    assert type(evaluator._env).__name__ == "SerialVectorEnv"
    evaluator.close()
    config = resolve("pets", "car_racing", "debug", overrides=["env.options.backend=gymnasium"])
    assert (build.env_backend(config) or "").startswith("gymnasium ")
