"""The presets of the Dreamer family against the values of their references; docs/dreamer.md has the table.

Dreamer v1: danijar/dreamer 56d4d44. v2: danijar/dreamerv2 07d906e, its blocks `defaults` and `dmc_proprio`. v3:
danijar/dreamerv3 e3f0224. PlaNet: google-research/planet c04226b.
"""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import load_preset
from cluster.tree import build
from learner.algorithms.dreamer_config import BehaviourConfig, DreamerConfig


def preset(name: str) -> DreamerConfig:
    return build(DreamerConfig, load_preset("algorithms", name)["algorithm"], "algorithm.")


def behaviour(config: DreamerConfig) -> BehaviourConfig:
    assert config.behaviour is not None
    return config.behaviour


def values(record: Any, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in names)


def test_planet() -> None:
    config, planner = preset("planet"), load_preset("algorithms", "planet")["planner"]
    assert (config.act, config.norm, config.sizes.units, config.sizes.deter) == ("relu", "none", 300, 200)
    assert values(config.rssm, "cell", "reset", "update_bias", "min_std", "groups") == ("gru", "memory", -1.0, 0.1, 30)
    assert config.reward.layers == 3
    losses = config.losses
    assert losses.reward / losses.reconstruction == 10.0
    assert values(losses, "free_nats", "free_nats_of", "reconstruction") == (3.0, "step", 0.5)
    assert values(config.optimizer, "lr", "eps", "grad_clip") == (1e-3, 1e-4, 1000.0)
    wanted = {"method": "cem", "horizon": 12, "population": 1000, "elites": 100, "iterations": 10, "min_std": 1e-3}
    assert wanted.items() <= planner.items()


def test_dreamer_v1() -> None:
    config = preset("dreamer_v1")
    assert (config.act, config.norm, config.sizes.units, config.sizes.deter) == ("elu", "none", 400, 200)
    assert values(config.rssm, "cell", "reset", "update_bias", "min_std", "groups") == ("gru", "memory", 0.0, 0.1, 30)
    assert (config.reward.layers, config.value.layers, config.policy.layers) == (2, 3, 4)
    assert values(config.policy, "continuous", "min_std", "evaluation") == ("tanh_normal", 1e-4, "mode")
    assert values(config.losses, "free_nats", "free_nats_of", "reconstruction", "reward") == (3.0, "batch", 0.5, 0.5)
    assert values(behaviour(config), "critic", "discount", "lambda_", "horizon") == (0.5, 0.99, 0.95, 15)
    assert values(config.optimizer, "lr", "eps", "grad_clip") == (6e-4, 1e-7, 100.0)


def test_dreamer_v2() -> None:
    config = preset("dreamer_v2")
    assert (config.act, config.norm, config.sizes.units) == ("elu", "none", 400)
    assert (config.sizes.deter, config.sizes.hidden, config.sizes.classes) == (200, 200, 32)
    assert values(config.rssm, "cell", "gru_norm", "reset", "update_bias") == ("gru", "layer", "candidate", -1.0)
    assert values(config.policy, "continuous", "min_std", "evaluation") == ("truncated_normal", 0.1, "mode")
    losses = config.losses
    assert values(losses, "free_nats", "free_nats_of", "dynamics", "representation") == (1.0, "batch", 0.8, 0.2)
    assert values(behaviour(config), "critic", "slow_every", "slow_rate", "entropy") == (0.5, 100, 1.0, 1e-4)
    assert behaviour(config).discount_in_continuation
    for optimizer, lr in ((config.optimizer, 3e-4), (config.actor_optimizer, 8e-5), (config.critic_optimizer, 8e-5)):
        assert optimizer is not None
        assert values(optimizer, "name", "lr", "eps", "grad_clip") == ("adam", lr, 1e-5, 100.0)
        assert (optimizer.shrink, optimizer.weight_decay) == (1e-6, 0.0)


def test_dreamer_v3() -> None:
    config = preset("dreamer_v3")
    assert values(config, "norm", "act", "size", "first_actions") == ("rms", "silu", "12m", "policy")
    assert values(config.rssm, "cell", "update_bias", "blocks", "unimix") == ("block_gru", -1.0, 8, 0.01)
    assert values(behaviour(config), "critic", "replay_value", "horizon", "entropy") == (1.0, 0.3, 15, 3e-4)
    assert values(config.optimizer, "lr", "eps", "agc", "warmup_steps", "shrink") == (4e-5, 1e-20, 0.3, 1000, 0.0)
    assert config.policy.unimix == 0.01  # of the paper; the reference's head for discrete actions has none


@pytest.mark.parametrize(
    ("name", "batch", "length", "samples", "prefill"),
    [
        ("planet", 50, 50, 250.0, 2500),
        ("dreamer_v1", 50, 50, 250.0, 2500),
        ("dreamer_v2", 16, 50, 160.0, 1000),
        ("dreamer_v3", 16, 64, 32.0, 2048),
    ],
)
def test_batches_and_replay_ratios(name: str, batch: int, length: int, samples: float, prefill: int) -> None:
    tree = load_preset("algorithms", name)
    assert tree["learner"] == {"batch_size": batch, "sequence_length": length}
    assert tree["replay"]["limiter"] == {"min_size": prefill, "samples_per_insert": samples}
