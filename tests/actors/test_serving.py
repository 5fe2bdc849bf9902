"""A served policy: rows of many callers in one call get what they would get alone, and the caller's side of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from actors.batching import DynamicBatcher
from actors.carry import concatenate_rows, take_rows
from actors.planning import PlannerPolicy
from actors.records import Policy, PolicyOutput
from actors.rollout import RolloutLoop
from actors.serving import ActRequest, ActResult, RemotePolicy, act_together
from envs.specs import ArraySpec, StepBatch
from envs.testing.counter import COUNTER_SPEC, CounterVectorEnv
from tests.actors.test_planning import CONFIG, KEYS, SPEC, make_step
from tests.fakes import RecurrentPolicy
from tests.planners.test_ensemble import make_weights


def assert_same(ours: PolicyOutput, theirs: PolicyOutput) -> None:
    """Two outputs are equal, bit for bit, but for the time they took."""
    np.testing.assert_array_equal(ours.action, theirs.action)
    for a, b in ((ours.extras, theirs.extras), (ours.metrics, theirs.metrics)):
        assert a.keys() == b.keys()
        for key in a.keys() - {"planning_ms"}:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def counter_steps(num_envs: int, ticks: int) -> list[StepBatch]:
    """The first steps of counting environments whose episodes start and end at different times."""
    env = CounterVectorEnv(num_envs)
    first = env.reset([5 * n for n in range(num_envs)])
    return [first, *(env.step(np.zeros((num_envs, 2), np.float32)) for _ in range(ticks - 1))]


def test_batched_rows_equal_rows_alone_through_time() -> None:
    policy = RecurrentPolicy(COUNTER_SPEC.action)
    seeds = np.arange(10, 16, dtype=np.uint64)
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    together = [policy.initial(seeds[part]) for part in parts]
    alone = [policy.initial(seeds[n : n + 1]) for n in range(6)]
    for step in counter_steps(6, 70):
        pieces = [take_rows(step, part) for part in parts]
        requests = [ActRequest(piece, carry, True) for piece, carry in zip(pieces, together, strict=True)]
        results = act_together(policy, requests)
        together = [output.carry for output, _ in results]
        served = concatenate_rows([output for output, _ in results])
        singles = [policy.act(take_rows(step, slice(n, n + 1)), alone[n], True) for n in range(6)]
        alone = [single.carry for single in singles]
        assert_same(served, concatenate_rows(singles))


def test_requests_with_and_without_exploration_share_a_batch() -> None:
    policy = PlannerPolicy(SPEC, KEYS, CONFIG, exploration_std=0.3)
    policy.update(3, make_weights())
    states = [(0.3, -0.4), (0.1, 0.2), (-0.5, 0.0), (0.2, 0.2)]
    requests = []
    for index, rows in enumerate((states[:1], states[1:3], states[3:])):
        carry = policy.initial(np.arange(len(rows), dtype=np.uint64) + 10 * index)
        requests.append(ActRequest(make_step(rows), carry, explore=index != 1))
    for request, (output, version) in zip(requests, act_together(policy, requests), strict=True):
        assert version == 3
        assert_same(output, policy.act(request.step, request.carry, request.explore))


class Server:
    """Serves one caller, in this process."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def extras(self) -> Mapping[str, ArraySpec]:
        return self.policy.extras

    def initial(self, seeds: NDArray[np.uint64]) -> Any:
        return self.policy.initial(seeds)

    def act(self, request: ActRequest) -> ActResult:
        assert request.step.observation.keys() == {"count"}
        (result,) = act_together(self.policy, [request])
        return result


def test_a_rollout_of_a_remote_policy_equals_one_of_the_policy_itself() -> None:
    def loop(policy: Policy) -> RolloutLoop:
        return RolloutLoop(CounterVectorEnv(3), policy, seed=8)

    here, served = loop(RecurrentPolicy(COUNTER_SPEC.action)), RecurrentPolicy(COUNTER_SPEC.action)
    remote = RemotePolicy(Server(served), ("count",))
    away = loop(remote)
    remote.update(9, {})  # its weights are elsewhere
    ours, theirs = here.collect(64).blocks, away.collect(64).blocks
    assert [block.policy_version for block in theirs] == [0, 0, 0]
    served.update(4, {})
    theirs += away.collect(64).blocks
    assert [block.policy_version for block in theirs[3:]] == [4, 4, 4]
    for a, b in zip(ours + here.collect(64).blocks, theirs, strict=True):
        assert a.data.keys() == b.data.keys()
        for key, value in a.data.items():
            np.testing.assert_array_equal(value, b.data[key], err_msg=key)


def test_requests_of_many_callers_become_one_call() -> None:
    policy = RecurrentPolicy(COUNTER_SPEC.action)
    (step,) = counter_steps(6, 1)
    carry = policy.initial(np.arange(6, dtype=np.uint64))
    rows = [slice(0, 2), slice(2, 3), slice(3, 6)]
    requests = [ActRequest(take_rows(step, r), take_rows(carry, r), True) for r in rows]

    async def main() -> list[ActResult]:
        batcher: DynamicBatcher[ActRequest, ActResult] = DynamicBatcher(
            lambda several: act_together(policy, several), lambda request: request.num_rows, 64, 20.0
        )
        results = await asyncio.gather(*(batcher.submit(request) for request in requests))
        assert batcher.metrics()["batch_rows"] == 6
        await batcher.close()
        return results

    served = concatenate_rows([output for output, _ in asyncio.run(main())])
    assert_same(served, policy.act(step, carry, True))


class Pair(NamedTuple):
    a: Any
    b: Any


def test_concatenation_keeps_the_types_of_a_tree() -> None:
    def part(*rows: int) -> dict[str, Any]:
        values: NDArray[np.float32] = np.array(rows, np.float32)
        return {"p": Pair(values, [torch.tensor(rows)]), "t": (values[:, None],), "nothing": None}

    whole = concatenate_rows([part(1, 2), part(3), part(4, 5)])
    assert whole["p"].a.tolist() == [1, 2, 3, 4, 5]
    assert isinstance(whole["p"].b[0], torch.Tensor)
    assert whole["p"].b[0].tolist() == [1, 2, 3, 4, 5]
    assert whole["t"][0].shape == (5, 1)
    assert whole["t"][0].dtype == np.float32
    assert whole["nothing"] is None
    with pytest.raises(TypeError, match="leaf of type int has no rows"):
        concatenate_rows([{"count": 3}, {"count": 4}])
