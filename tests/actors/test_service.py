"""The whole Ray path with a ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from actors.evaluate import EvalConfig, Evaluator
from actors.replay.config import ReplayConfig
from actors.replay.flow.routing import route
from actors.rollout import RolloutLoop, pack_stream_id
from actors.serving import RemotePolicy
from envs.testing.counter import COUNTER_SPEC, CounterVectorEnv
from learner.batch import SequenceBatch
from tests.fakes import CheckingPolicy, RecurrentPolicy, check_extras, check_sequences, counter_blocks

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.integration

CONFIG = ReplayConfig(num_shards=2, max_bytes=1 << 26, chunk_steps=512)


class FakeWeights:
    """A weight store of one fixed version."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._asked = 0

    def latest(self, known_version: int = -1) -> tuple[int, list[Any]] | None:
        self._asked += 1
        return (self._version, [ray.put({})]) if self._version > known_version else None

    def asked(self) -> int:
        return self._asked


def make_loop(actor: int, num_envs: int, incarnation: int = 0) -> RolloutLoop:
    return RolloutLoop(CounterVectorEnv(num_envs), CheckingPolicy(), seed=11, actor=actor, incarnation=incarnation)


def remote(cls: type, *args: Any, **kwargs: Any) -> Any:
    return ray.remote(cls).options(num_cpus=0).remote(*args, **kwargs)


@pytest.fixture
def shards(cluster: None) -> Iterator[list[Any]]:
    from actors.replay.service import ReplayShardActor

    handles = [remote(ReplayShardActor, CONFIG, seed, index) for index, seed in enumerate((1, 2))]
    yield handles
    for handle in handles:
        ray.kill(handle)


def test_no_step_is_lost_doubled_or_misaligned_in_1e5(shards: list[Any]) -> None:
    from actors.replay.flow.service import RemoteBatches
    from actors.service import RolloutActor

    num_actors, num_envs, ticks, leases = 2, 16, 320, 10
    actors = [remote(RolloutActor, partial(make_loop, a, num_envs), shards, actor=a) for a in range(num_actors)]
    taken = acknowledged = sampled = 0
    batches: Iterator[SequenceBatch] | None = None
    for _ in range(leases):
        for summary in ray.get([actor.run.remote(ticks) for actor in actors]):
            taken += summary.steps
            acknowledged += summary.acknowledged
        batches = batches or RemoteBatches(shards, batch_size=8, length=100, seed=0)
        for _ in range(3):  # sampling goes on between the inserts
            batch = next(batches)
            check_sequences(batch)
            sampled += batch.data["reward"].size
    acknowledged += sum(ray.get([actor.flush.remote() for actor in actors]))

    assert taken == acknowledged == num_actors * num_envs * ticks * leases >= 100_000
    ledger: dict[int, tuple[int, int]] = {}
    for index, shard in enumerate(shards):
        for stream_id, span in ray.get(shard.streams.remote()).items():
            assert route(stream_id, 2) == index
            assert stream_id not in ledger
            ledger[stream_id] = span
            check_sequences(ray.get(shard.read.remote(stream_id, span[0], span[1] - span[0])))
    expected = {pack_stream_id(a, 0, n) for a in range(num_actors) for n in range(num_envs)}
    assert ledger.keys() == expected
    assert set(ledger.values()) == {(0, ticks * leases)}
    stats = ray.get([shard.stats.remote() for shard in shards])
    assert sum(s["inserted_steps"] for s in stats) == taken
    assert all(s["duplicate_steps"] == s["evicted_steps"] == 0 for s in stats)
    assert sum(s["sampled_steps"] for s in stats) >= sampled


def test_a_repeated_message_is_acknowledged_and_stored_once(shards: list[Any]) -> None:
    from actors.replay.wire.blocks import encode_blocks

    message = encode_blocks(counter_blocks(5, 3))
    assert [ray.get(shards[0].insert.remote(*message)) for _ in range(3)] == [192, 0, 0]
    assert ray.get(shards[0].num_steps.remote()) == 192


def test_errors_of_a_shard_reach_the_sender(shards: list[Any]) -> None:
    from actors.replay.wire.blocks import encode_blocks

    header, payload = encode_blocks(counter_blocks(5, 3)[1:])
    with pytest.raises(ValueError, match="64 steps are missing"):
        ray.get(shards[0].insert.remote(header, payload))


@pytest.mark.parametrize("mixed", [False, True])
def test_remote_batches_follow_the_masses_and_are_owned(shards: list[Any], mixed: bool) -> None:
    from actors.replay.flow.service import RemoteBatches
    from actors.replay.wire.blocks import encode_blocks

    ray.get(shards[0].insert.remote(*encode_blocks(counter_blocks(5, 2))))
    ray.get(shards[1].insert.remote(*encode_blocks(counter_blocks(6, 8))))
    batches = RemoteBatches(shards, batch_size=4, length=10, seed=3, mixed=mixed)
    seen = []
    for _ in range(120):
        batch = next(batches)
        check_sequences(batch)
        assert batch.data["reward"].flags.writeable
        assert batch.shape == (4, 10)
        seen.append(batch.stream_id)
    share = np.mean(np.concatenate(seen) == 5)
    masses = ray.get([shard.masses.remote(10) for shard in shards])
    assert [m.tolist() for m in masses] == [[119.0], [503.0]]
    assert share == pytest.approx(119 / 622, abs=0.13)
    if mixed:
        assert any(len(set(ids.tolist())) == 2 for ids in seen)


def test_empty_shards_say_so(shards: list[Any]) -> None:
    from actors.replay.flow.service import RemoteBatches

    message = "none of the 2 shards holds a sequence of 10 steps after .*: shard 0 is empty, shard 1 is empty"
    ray.get([shard.ping.remote() for shard in shards])
    with pytest.raises(TimeoutError, match=message):
        next(RemoteBatches(shards, 4, 10, seed=0, wait_seconds=2.0))


def test_rollout_actor_pulls_only_newer_weights(shards: list[Any]) -> None:
    from actors.service import RolloutActor

    store = remote(FakeWeights, 4)
    actor = remote(RolloutActor, partial(make_loop, 3, 2), shards, store, actor=3)
    first = ray.get(actor.run.remote(64))
    assert (first.policy_version, first.policy_lag, first.steps) == (4, 4, 128)
    assert ray.get(actor.run.remote(64, version=4)).policy_lag == 0
    assert ray.get(store.asked.remote()) == 1
    ray.get(actor.restart.remote(1))
    assert ray.get(actor.run.remote(64)).incarnation == 1
    ray.get(actor.flush.remote())
    streams = {k: v for shard in shards for k, v in ray.get(shard.streams.remote()).items()}
    assert streams == {pack_stream_id(3, i, n): (0, 128 if i == 0 else 64) for i in (0, 1) for n in (0, 1)}


def test_evaluator_actor_runs_the_newest_weights(cluster: None) -> None:
    from actors.service import EvaluatorActor

    def make_evaluator() -> Evaluator:
        return Evaluator(CounterVectorEnv, EvalConfig(episodes=5, num_envs=2, seed=1))

    actor = remote(EvaluatorActor, make_evaluator, CheckingPolicy, remote(FakeWeights, 9), "fake")
    summary = ray.get(actor.run.remote()).summary
    assert (summary.episodes, summary.policy_version, summary.algorithm) == (5, 9, "fake")
    assert summary == Evaluator(CounterVectorEnv, EvalConfig(5, 3, 1)).evaluate(_policy(9), "fake").summary


def test_actors_close_their_environments() -> None:
    from actors.service import EvaluatorActor, RolloutActor

    closed = []

    class ClosingEnv(CounterVectorEnv):
        def close(self) -> None:
            closed.append(self.num_envs)

    def make_loop() -> RolloutLoop:
        return RolloutLoop(ClosingEnv(3), CheckingPolicy(), seed=11)

    RolloutActor(make_loop, []).close()
    EvaluatorActor(lambda: Evaluator(ClosingEnv, EvalConfig(episodes=2, num_envs=2, seed=1)), CheckingPolicy).close()
    assert closed == [3, 2]


def planner_policy() -> Any:
    from actors.planning import PlannerPolicy
    from planners.config import IcemConfig

    config = IcemConfig(population=32, elites=4, iterations=2, horizon=5)
    return PlannerPolicy(COUNTER_SPEC, ("state",), config)


class EnsembleWeights:
    """A weight store that publishes a linear ensemble when told to."""

    def __init__(self) -> None:
        self._version = 0

    def publish(self, version: int) -> None:
        self._version = version

    def latest(self, known_version: int = -1) -> tuple[int, list[Any]] | None:
        return (self._version, [ray.put(linear_ensemble())]) if self._version > known_version else None


def linear_ensemble() -> dict[str, np.ndarray]:
    """One linear layer for 3 members: the state stays, the reward is the first action."""
    weight = np.zeros((3, 6, 5), np.float32)
    weight[:, 4, 4] = 1.0
    ones, zeros = np.ones, np.zeros
    return {
        "weight_0": weight,
        "bias_0": zeros((3, 5), np.float32),
        "input_shift": zeros(6, np.float32),
        "input_scale": ones(6, np.float32),
        "output_shift": zeros(5, np.float32),
        "output_scale": ones(5, np.float32),
        "activation": np.frombuffer(b"silu", np.uint8),
        "gaussian": np.array(0),
        "has_termination": np.array(0),
    }


def test_serving_actor_plans_for_rollout_actors_and_follows_the_weights(shards: list[Any]) -> None:
    from actors.service import RayPolicyServer, RolloutActor, ServingActor

    store = remote(EnsembleWeights)
    planner = remote(ServingActor, planner_policy, lambda: store, 8, 20.0, "planner-0", 0.05)

    def make(actor: int) -> RolloutLoop:
        policy = RemotePolicy(RayPolicyServer(planner), ("state",))
        return RolloutLoop(CounterVectorEnv(4), policy, seed=2, actor=actor)

    actors = [remote(RolloutActor, partial(make, a), shards, None, a) for a in (0, 1)]
    first = ray.get([actor.run.remote(4) for actor in actors])
    assert [s.policy_version for s in first] == [0, 0]
    ray.get(store.publish.remote(3))
    deadline = time.monotonic() + 20
    while ray.get(planner.ping.remote()) < 3 and time.monotonic() < deadline:
        ray.get([actor.run.remote(4) for actor in actors])
    later = ray.get([actor.run.remote(64, 5) for actor in actors])
    assert [(s.policy_version, s.policy_lag) for s in later] == [(3, 2), (3, 2)]
    assert all(s.metrics["return_mean"] > 2.5 for s in later)  # 5 steps of reward close to 1
    ray.get([actor.flush.remote() for actor in actors])
    for shard in shards:
        for stream_id, (start, end) in ray.get(shard.streams.remote()).items():
            batch = ray.get(shard.read.remote(stream_id, start, end - start))
            check_sequences(batch)
            assert batch.data["action"][0, -32:-1][~batch.data["is_last"][0, -32:-1]][:, 0].mean() > 0.5


def recurrent_policy() -> RecurrentPolicy:
    return RecurrentPolicy(COUNTER_SPEC.action)


def test_a_serving_actor_that_dies_costs_no_step_of_a_recurrent_policy(shards: list[Any]) -> None:
    from actors.service import RayPolicyServer, RolloutActor, ServingActor

    restarting = ray.remote(ServingActor).options(num_cpus=0, max_restarts=2, max_task_retries=-1)
    kept = ray.remote(FakeWeights).options(num_cpus=0, name="weights of a test").remote(6)
    server = restarting.remote(recurrent_policy, partial(ray.get_actor, "weights of a test"), 256, 5.0, "inference-0")

    def make(actor: int, served: bool) -> RolloutLoop:
        policy = RemotePolicy(RayPolicyServer(server), ("count",)) if served else recurrent_policy()
        return RolloutLoop(CounterVectorEnv(8), policy, seed=5, actor=actor)

    actors = [remote(RolloutActor, partial(make, a, True), shards, None, a) for a in (0, 1)]
    assert [s.policy_version for s in ray.get([actor.run.remote(64) for actor in actors])] == [6, 6]
    running = [actor.run.remote(256) for actor in actors]
    time.sleep(0.2)
    ray.kill(server, no_restart=False)
    assert sum(s.steps for s in ray.get(running)) == 2 * 8 * 256
    ray.get([actor.flush.remote() for actor in actors])
    direct = {block.stream_id: block for block in make(1, False).collect(64).blocks}
    streams = {stream: shard for shard in shards for stream in ray.get(shard.streams.remote())}
    assert len(streams) == 16
    for stream, shard in streams.items():
        batch = ray.get(shard.read.remote(stream, 0, 320))
        check_sequences(batch)
        check_extras(batch, seed=5, num_envs=8)
        if stream in direct:
            for key, value in direct[stream].data.items():
                np.testing.assert_array_equal(batch.data[key][0, :64], value, err_msg=key)
    ray.kill(kept)


def _policy(version: int) -> CheckingPolicy:
    policy = CheckingPolicy()
    policy.update(version, {})
    return policy
