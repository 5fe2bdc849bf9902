"""What Plan2Explore learns from: disagreement, and the task's reward as far as `extrinsic` says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from learner.algorithms.dreamer import DreamerAlgorithm
from learner.algorithms.dreamer_config import DreamerConfig
from learner.batch import SequenceBatch
from learner.models.world_model_config import DisagreementConfig
from tests.learner.dreamers import batches, make, tiny, with_data


def explorer(name: str, extrinsic: float, intrinsic: float = 1.0) -> DreamerConfig:
    return tiny(name, plan2explore=DisagreementConfig(3, 1, intrinsic, extrinsic))


def other_rewards(batch: SequenceBatch) -> SequenceBatch:
    return with_data(batch, reward=100.0 * batch.data["reward"] + 3.0)


def trained(config: DreamerConfig, rewards_differ: bool) -> DreamerAlgorithm:
    algorithm = make(config)
    for batch in batches(config)[:3]:
        algorithm.update(other_rewards(batch) if rewards_differ else batch)
    return algorithm


def weights(algorithm: DreamerAlgorithm) -> dict[str, Tensor]:
    modules = algorithm.state_dict()["modules"]
    return {f"{name}.{key}": value for name, state in modules.items() for key, value in state.items()}


@pytest.mark.parametrize("name", ["dreamer_v1", "dreamer_v2", "dreamer_v3"])
def test_without_extrinsic_reward_nothing_but_its_head_learns_from_the_task(name: str) -> None:
    config = explorer(name, extrinsic=0.0)
    config = replace(config, optimizer=replace(config.optimizer, grad_clip=0.1))  # by the joint norm
    one, other = (trained(config, differ) for differ in (False, True))
    ours, theirs = weights(one), weights(other)
    differing = {key for key, value in ours.items() if not torch.equal(value, theirs[key])}
    assert differing
    assert all(key.startswith("world.reward.") for key in differing), differing
    assert one.return_range is not None
    assert other.return_range is not None
    assert torch.equal(one.return_range.average, other.return_range.average)


def test_with_extrinsic_reward_the_critic_learns_from_it() -> None:
    one, other = (weights(trained(explorer("dreamer_v3", extrinsic=0.5), differ)) for differ in (False, True))
    assert any(key.startswith("behaviour.value.") and not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("intrinsic", "extrinsic"), [(1.0, 0.0), (2.0, 0.0), (1.0, 0.5), (0.0, 1.0)])
def test_replayed_rewards_are_mixed_as_imagined_ones(intrinsic: float, extrinsic: float) -> None:
    config = explorer("dreamer_v3", extrinsic, intrinsic)
    algorithm = make(config)
    data = algorithm._to_device(batches(config)[0])
    states, _ = algorithm.world.filter_posterior(
        data.observation,
        data.previous_action,
        data.is_first,
        data.start,
        algorithm._draw(*data.is_first.shape).posterior,
    )
    reward = algorithm._replayed_reward(data, states)
    assert algorithm.disagreement is not None
    novelty: Any = algorithm.disagreement.reward(states.features[:, :-1], data.action[:, :-1])
    assert novelty.any()
    torch.testing.assert_close(reward[:, 1:], intrinsic * novelty + extrinsic * data.reward[:, 1:])
