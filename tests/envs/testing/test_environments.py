"""The environments that find faults of what uses them: each finds its own, and is itself without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from actors.evaluate import EvalConfig, Evaluator
from actors.random_policy import RandomPolicy
from actors.records import PolicyOutput
from actors.rollout import RolloutConfig, RolloutLoop
from envs.registry import make_vector_env
from envs.specs import ArraySpec, StepBatch
from envs.testing.alignment import ALIGNMENT_NAME, check_alignment
from envs.testing.cue import CUE_NAME
from envs.testing.time_limit import TIME_LIMIT_NAME
from learner.losses.dreamer import lambda_returns


class RememberingPolicy:
    """Answers with the cue that its carry remembers, or, without memory, with what it sees."""

    def __init__(self, remembers: bool) -> None:
        self.version = 0
        self.extras: dict[str, ArraySpec] = {}
        self._remembers = remembers

    def initial(self, seeds: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.zeros(len(seeds), np.int64)

    def act(self, step: StepBatch, carry: NDArray[np.int64], explore: bool) -> PolicyOutput:
        seen = step.observation["state"].argmax(1)
        carry = np.where(step.is_first, seen, carry) if self._remembers else seen
        return PolicyOutput(carry, carry)

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        pass


@pytest.mark.parametrize("num_envs", [1, 7])
def test_only_memory_answers_the_cue(num_envs: int) -> None:
    evaluator = Evaluator(lambda n: make_vector_env(CUE_NAME, n, delay=3), EvalConfig(episodes=40, num_envs=num_envs))
    assert evaluator.evaluate(RememberingPolicy(True)).summary.return_mean == 1.0
    assert 0.2 < evaluator.evaluate(RememberingPolicy(False)).summary.return_mean < 0.8
    evaluator.close()


def stored(name: str, steps: int = 64, **options: Any) -> dict[str, NDArray[Any]]:
    """Steps [T] of one stream of random actions, as the replay gets them."""
    env = make_vector_env(name, 1, **options)
    loop = RolloutLoop(env, RandomPolicy(env.spec.action), seed=3, config=RolloutConfig(block_steps=steps))
    return loop.collect(steps).blocks[0].data


def test_alignment_names_what_is_one_step_off() -> None:
    data = stored(ALIGNMENT_NAME)
    arrays = [data[key] for key in ("state", "action", "reward", "is_first")]
    check_alignment(*arrays)
    faults = ("action", "action", "reward", "first step")
    for moved, named in enumerate(faults):
        shifted = [np.roll(array, 1, 0) if index == moved else array for index, array in enumerate(arrays)]
        with pytest.raises(AssertionError, match=named):
            check_alignment(*shifted)


@pytest.mark.parametrize("terminates", [False, True])
def test_time_limits_keep_their_value_and_ends_have_none(terminates: bool) -> None:
    gamma, limit = 0.9, 8
    data = {
        key: torch.from_numpy(np.array(value))[None]
        for key, value in stored(TIME_LIMIT_NAME, limit=limit, terminates=terminates).items()
    }
    value = torch.full(data["reward"].shape, 1 / (1 - gamma))
    discount = gamma * (1.0 - data["is_terminal"].float())
    returns = lambda_returns(data["reward"], discount, value, 1.0, 1.0 - data["is_last"].float())[0]
    inner = ~data["is_last"][0, :-1]
    left = limit * (1 - data["state"][0, :-1, 0])
    expected = (1 - gamma**left) / (1 - gamma) if terminates else value[0, :-1]
    ended = inner & (torch.arange(len(inner)) < 54)  # what follows is not over by the end of the sequence
    np.testing.assert_allclose(returns[ended], expected[ended], rtol=1e-5)
    assert ended.sum() > 40
