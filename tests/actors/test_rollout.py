from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.random_policy import RandomPolicy
from actors.records import PolicyOutput
from actors.replay.config import ReplayConfig
from actors.replay.sharded import ShardedReplay
from actors.rollout import RolloutConfig, RolloutLoop, pack_stream_id, unpack_stream_id
from envs.adapters import GymnasiumEnv
from envs.faults import SimulatorError
from envs.registry import make_vector_env
from envs.specs import ArraySpec, StepBatch
from envs.testing.counter import COUNTER_NAME, COUNTER_SPEC, CounterEnv, CounterVectorEnv, episode_length
from envs.vector import SerialVectorEnv
from learner.algorithms.base import UpdateResult
from tests.envs.slippery import SlipperyEnv
from tests.fakes import CheckingPolicy, RecurrentPolicy, check_extras, check_sequences


def test_stream_ids_pack_and_unpack_to_the_edges() -> None:
    top = ((1 << 20) - 1, (1 << 23) - 1, (1 << 20) - 1)
    assert pack_stream_id(*top) == (1 << 63) - 1
    assert unpack_stream_id(pack_stream_id(5, 3, 2)) == (5, 3, 2)
    assert unpack_stream_id(pack_stream_id(*top)) == top
    with pytest.raises(ValueError, match="env index 1048576"):
        pack_stream_id(0, 0, 1 << 20)


def test_blocks_follow_one_another_across_calls_of_any_length() -> None:
    loop = RolloutLoop(CounterVectorEnv(3), CheckingPolicy(), seed=1, actor=4, incarnation=2)
    blocks = []
    for ticks in (1, 63, 70, 100, 22):
        result = loop.collect(ticks)
        assert result.steps == 3 * ticks
        blocks += result.blocks
    assert len(blocks) == 3 * 4
    for n in range(3):
        mine = [b for b in blocks if b.stream_id == pack_stream_id(4, 2, n)]
        assert [b.first_step for b in mine] == [0, 64, 128, 192]
        total = np.concatenate([b.data["count"][:, 1] for b in mine])
        np.testing.assert_array_equal(total, np.arange(256))


def test_rollout_through_sharded_replay_keeps_every_step_aligned() -> None:
    loop = RolloutLoop(CounterVectorEnv(8), CheckingPolicy(), seed=3)
    replay = ShardedReplay.from_config(ReplayConfig(num_shards=2, max_bytes=1 << 24, chunk_steps=100), seed=0)
    for _ in range(4):
        for block in loop.collect(160).blocks:
            assert replay.insert(block) == 64
    assert replay.num_steps == 8 * 640
    for stream_id, (start, end) in replay.streams().items():
        assert (start, end) == (0, 640)
        check_sequences(replay.read(stream_id, start, end - start))
    for _ in range(20):
        check_sequences(replay.sample(16, 250))


def test_a_gymnasium_environment_goes_the_same_way() -> None:
    env = make_vector_env(COUNTER_NAME, 3)
    loop = RolloutLoop(env, CheckingPolicy(), seed=3)
    replay = ShardedReplay.from_config(ReplayConfig(num_shards=2, max_bytes=1 << 24, chunk_steps=100), seed=0)
    for block in loop.collect(256).blocks:
        replay.insert(block)
    assert len(replay.streams()) == 3
    for stream_id, (start, end) in replay.streams().items():
        check_sequences(replay.read(stream_id, start, end - start))


KINDS = ["exception", "nonfinite", "reward"]


def faulty_loop(log: Path, seed: int = 3, share: float = 0.02, kinds: Sequence[str] = KINDS) -> RolloutLoop:
    options = {"fault_share": share, "fault_kinds": list(kinds), "fault_log": str(log)}
    return RolloutLoop(make_vector_env(COUNTER_NAME, 3, **options), CheckingPolicy(), seed)


def test_a_failing_simulator_ends_its_stream_and_its_row_goes_on_as_another(tmp_path: Path) -> None:
    loop = faulty_loop(tmp_path / "faults")
    replay = ShardedReplay.from_config(ReplayConfig(num_shards=2, max_bytes=1 << 24, chunk_steps=100), seed=0)
    faults = []
    for ticks in (100, 200, 84):
        result = loop.collect(ticks)
        assert result.steps == 3 * ticks
        faults += result.faults
        for block in result.blocks:
            assert replay.insert(block) == block.num_steps
    for block in loop.flush():
        replay.insert(block)
    injected = [line.split() for line in (tmp_path / "faults").read_text().splitlines()]
    # Numbers are looked at when all environments have stepped: these faults come last in their tick.
    told = sorted((fault.kind, str(fault.seed)) for fault in faults)
    assert told == sorted((kind, seed) for kind, seed, _ in injected)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert replay.num_steps == 3 * 384  # a tick stores one step of each, whatever fails
    streams = replay.streams()
    assert len(streams) == 3 + len(faults)
    rows = sorted(unpack_stream_id(stream)[2] for stream in streams)
    assert rows == sorted(n + 3 * k for n in range(3) for k in range(1 + sum(fault.env == n for fault in faults)))
    for stream_id, (start, end) in streams.items():
        assert start == 0
        check_sequences(replay.read(stream_id, 0, end))


def test_blocks_of_a_new_stream_carry_the_version_that_began_them(tmp_path: Path) -> None:
    loop = faulty_loop(tmp_path / "faults")
    ticks = [0] * 3  # of each row so far
    for version in range(1, 30):
        loop.policy.update(version, {})
        blocks = loop.collect(10).blocks + (loop.flush() if version == 29 else [])
        for block in sorted(blocks, key=lambda block: unpack_stream_id(block.stream_id)[2]):
            n = unpack_stream_id(block.stream_id)[2] % 3
            assert block.policy_version == 1 + ticks[n] // 10
            ticks[n] += block.num_steps
    assert ticks == [290] * 3


def test_an_environment_that_stays_broken_leaves_what_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = faulty_loop(tmp_path / "faults", share=0.0)
    loop.collect(60)

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("envs.vector.REMAKE_WAITS", (0.0,))
        patch.setattr(CounterEnv, "step", broken)
        patch.setattr(CounterEnv, "reset", broken)
        with pytest.raises(SimulatorError, match=r"environment 0 fails each of the 1 times .*ZeroDivisionError"):
            loop.collect(10)
    assert not faulty_loop(tmp_path / "faults").load_state_dict(loop.state_dict())
    blocks = loop.flush()
    assert [(block.first_step, block.num_steps) for block in blocks] == [(0, 61)] * 3
    assert loop.flush() == []
    loop.restart(1)
    result = loop.collect(64)
    assert [fault.where for fault in result.faults] == ["step", "reset"]
    assert [block.first_step for block in result.blocks] == [0] * 3


def slippery_loop(incarnation: int) -> RolloutLoop:
    env = SerialVectorEnv([lambda: GymnasiumEnv(SlipperyEnv(), "slippery")] * 3)
    return RolloutLoop(env, RecurrentPolicy(env.spec.action), seed=5, incarnation=incarnation)


@pytest.mark.parametrize("ticks", [1, 40, 64, 230])
def test_a_restored_loop_fails_as_if_it_had_never_stopped(ticks: int) -> None:
    loop, other = slippery_loop(0), slippery_loop(1)
    loop.collect(ticks)
    assert other.load_state_dict(loop.state_dict())
    for _ in range(2):  # the second time from a loop that was itself restored
        ours, theirs = loop.collect(130), other.collect(130)
        assert len(ours.faults) > 3
        assert [fault.describe() for fault in ours.faults] == [fault.describe() for fault in theirs.faults]
        for one, two in zip(ours.blocks, theirs.blocks, strict=True):
            assert (one.stream_id, one.first_step) == (two.stream_id, two.first_step)
            for key, value in one.data.items():
                np.testing.assert_array_equal(value, two.data[key], err_msg=key)
        restored = slippery_loop(2)
        assert restored.load_state_dict(other.state_dict())
        other = restored


def test_a_corrupted_step_is_noticed() -> None:
    replay = ShardedReplay.from_config(ReplayConfig(num_shards=1, max_bytes=1 << 22, chunk_steps=64), seed=0)
    blocks = RolloutLoop(CounterVectorEnv(1), CheckingPolicy(), seed=3).collect(64).blocks
    blocks[0].data["action"][10] += 0.5
    replay.insert(blocks[0])
    with pytest.raises(AssertionError):
        check_sequences(replay.read(blocks[0].stream_id, 0, 64))


def test_episodes_report_return_length_and_summed_cost() -> None:
    loop = RolloutLoop(CounterVectorEnv(1), CheckingPolicy(), seed=9)
    result = loop.collect(400)
    env_seed = int(np.random.SeedSequence([9, 0, 0]).generate_state(2, np.uint64)[0] >> np.uint64(33))
    assert len(result.episodes) > 2
    for index, episode in enumerate(result.episodes):
        length = episode_length(env_seed, index)
        assert episode.length == length
        assert episode.episode_return == length * (length + 1) / 2
        assert episode.metrics == {"cost": length, "is_success": float(index % 2 == 0)}


def test_policy_metrics_are_means_over_ticks_and_environments() -> None:
    result = RolloutLoop(CounterVectorEnv(2), CheckingPolicy(), seed=0).collect(5)
    assert result.metrics == {"total": 2.0}


def test_flush_hands_out_the_rest_and_the_stream_goes_on() -> None:
    loop = RolloutLoop(CounterVectorEnv(1), CheckingPolicy(), seed=0)
    first = loop.collect(70).blocks + loop.flush()
    assert [(b.first_step, b.num_steps) for b in first] == [(0, 64), (64, 6)]
    assert loop.flush() == []
    assert [(b.first_step, b.num_steps) for b in loop.collect(64).blocks] == [(70, 64)]


def test_blocks_are_not_overwritten_by_later_ticks() -> None:
    loop = RolloutLoop(CounterVectorEnv(2), CheckingPolicy(), seed=0)
    blocks = loop.collect(64).blocks
    before = blocks[0].data["count"].copy()
    loop.collect(64)
    np.testing.assert_array_equal(blocks[0].data["count"], before)


def test_block_carries_the_version_that_chose_its_first_action() -> None:
    policy = CheckingPolicy()
    loop = RolloutLoop(CounterVectorEnv(1), policy, seed=0)
    loop.collect(10)
    policy.update(7, {})
    blocks = loop.collect(118).blocks
    assert [b.policy_version for b in blocks] == [0, 7]


def test_restart_opens_new_streams_and_equal_seeds_give_equal_blocks() -> None:
    def run(incarnation: int) -> list:
        env = CounterVectorEnv(2)
        loop = RolloutLoop(env, RandomPolicy(env.spec.action), seed=5, actor=1)
        loop.collect(100)
        loop.restart(incarnation)
        return loop.collect(64).blocks

    one, again, other = run(1), run(1), run(2)
    assert [b.stream_id for b in one] == [pack_stream_id(1, 1, 0), pack_stream_id(1, 1, 1)]
    assert [b.first_step for b in one] == [0, 0]
    for a, b in zip(one, again, strict=True):
        for key in a.data:
            np.testing.assert_array_equal(a.data[key], b.data[key])
    assert not np.array_equal(one[0].data["action"], other[0].data["action"])


def test_bad_sizes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="block_steps must be at least 64, got 63"):
        RolloutConfig(block_steps=63)
    with pytest.raises(ValueError, match="num_ticks must be at least 1, got 0"):
        RolloutLoop(CounterVectorEnv(1), CheckingPolicy(), seed=0).collect(0)


def recurrent_loop(num_envs: int = 4) -> RolloutLoop:
    return RolloutLoop(CounterVectorEnv(num_envs), RecurrentPolicy(COUNTER_SPEC.action), seed=3, actor=2)


def test_extras_are_stored_with_their_step_and_refreshed_by_writebacks() -> None:
    loop = recurrent_loop()
    replay = ShardedReplay.from_config(ReplayConfig(num_shards=2, max_bytes=1 << 24, chunk_steps=100), seed=0)
    for ticks in (100, 220):
        for block in loop.collect(ticks).blocks:
            replay.insert(block)
    for _ in range(20):
        batch = replay.sample(8, 150)
        check_sequences(batch)
        check_extras(batch, seed=3, num_envs=4)
    batch = replay.sample(1, 150)
    fresh = {key: 200 - batch.data[key][:, 110:] for key in ("latent_deter", "latent_stoch")}
    replay.write_back(batch, UpdateResult({}, writebacks=fresh))
    stream, first = int(batch.stream_id[0]), int(batch.first_step[0])
    check_extras(replay.read(stream, first, 110), seed=3, num_envs=4)  # so much of the sequence was not refreshed
    for key, value in fresh.items():
        np.testing.assert_array_equal(replay.read(stream, first + 110, 40).data[key], value, err_msg=key)
    check_extras(replay.read(stream, first + 150, 320 - first - 150), seed=3, num_envs=4)  # the others are as they were


class RankingPolicy(RecurrentPolicy):
    """Gives what it stores of a step as the step's priority, too."""

    def act(self, step: StepBatch, carry: Any, explore: bool) -> PolicyOutput:
        output = super().act(step, carry, explore)
        return replace(output, priority=output.extras["latent_deter"][:, 1].astype(np.float32))


def test_priorities_of_the_policy_come_with_the_steps_also_after_a_resume() -> None:
    env = make_vector_env("nav3d", 2)
    loop, again = (RolloutLoop(env, RankingPolicy(env.spec.action), seed) for seed in (3, 4))
    loop.restart(0)
    blocks = loop.collect(100).blocks
    state = loop.state_dict()
    blocks += loop.collect(60).blocks + loop.flush()
    assert again.load_state_dict(state)
    for block in blocks + again.collect(60).blocks:
        assert block.priority is not None
        assert block.priority.dtype == np.float32
        np.testing.assert_array_equal(block.priority, block.data["latent_deter"][:, 1])
    assert all(block.priority is None for block in recurrent_loop().collect(64).blocks)


def test_the_step_that_ends_an_episode_keeps_its_extras() -> None:
    (block,) = recurrent_loop(1).collect(64).blocks
    last = block.data["is_last"]
    assert last.any()
    assert not block.data["action"][last].any()
    np.testing.assert_array_equal(block.data["latent_deter"][last, 1], block.data["count"][last, 0])


def test_extras_may_not_take_the_names_of_stored_keys() -> None:
    for name in ("image", "reward"):
        policy = RecurrentPolicy(COUNTER_SPEC.action)
        policy.extras = {name: ArraySpec((1,), "float32")}
        with pytest.raises(ValueError, match=rf"extras \['{name}'\] have names of stored keys of counter"):
            RolloutLoop(CounterVectorEnv(1), policy, seed=0)


def nav3d_loop(seed: int = 5) -> RolloutLoop:
    env = make_vector_env("nav3d", 3, layout="random", wind_std=0.2)
    return RolloutLoop(env, RecurrentPolicy(env.spec.action), seed)


@pytest.mark.parametrize("ticks", [64, 100, 230])
def test_a_restored_loop_goes_on_as_if_it_had_never_stopped(ticks: int) -> None:
    loop, other = nav3d_loop(), nav3d_loop(seed=6)
    loop.collect(ticks)
    assert other.load_state_dict(loop.state_dict())
    for _ in range(2):  # the second time from a loop that was itself restored
        for ours, theirs in zip(loop.collect(130).blocks, other.collect(130).blocks, strict=True):
            assert (ours.stream_id, ours.first_step) == (theirs.stream_id, theirs.first_step)
            for key, value in ours.data.items():
                np.testing.assert_array_equal(value, theirs.data[key], err_msg=key)
        restored = nav3d_loop(seed=7)
        assert restored.load_state_dict(other.state_dict())
        other = restored


def random_loop(name: str, seed: int, **options: Any) -> RolloutLoop:
    env = make_vector_env(name, 2, **options)
    return RolloutLoop(env, RandomPolicy(env.spec.action), seed)


@pytest.mark.parametrize(
    ("name", "options", "packages"),
    [
        ("gym:CartPole-v1", {}, ()),
        ("car_racing_discrete", {"backend": "envpool", "max_episode_frames": 50}, ("envpool",)),
        ("car_racing", {"backend": "envpool", "max_episode_frames": 50}, ("envpool",)),
        ("car_racing_discrete", {"backend": "gymnasium", "max_episode_frames": 100, "action_repeat": 4}, ("Box2D",)),
        ("dmc:cartpole-swingup", {"max_episode_frames": 50}, ("dm_control",)),
    ],
)
def test_loops_of_every_simulator_go_on_exactly(name: str, options: dict[str, Any], packages: tuple[str, ...]) -> None:
    for package in packages:
        pytest.importorskip(package)
    loop, other = random_loop(name, 5, **options), random_loop(name, 6, **options)
    loop.collect(70)
    assert other.load_state_dict(loop.state_dict())
    results = loop.collect(60), other.collect(60)
    for ours, theirs in zip(*(result.blocks for result in results), strict=True):
        for key, value in ours.data.items():
            np.testing.assert_array_equal(value, theirs.data[key], err_msg=key)
        spec = loop.env.spec.action
        assert ours.data["action"].dtype == spec.dtype
        assert ours.data["action"].shape == (64, *spec.shape)
        assert ours.data["is_last"].any()
        assert not ours.data["action"][ours.data["is_last"]].any()
        if spec.num_values is not None:
            assert set(np.unique(ours.data["action"])) == set(range(spec.num_values))
    assert [episode.length for episode in results[0].episodes] == [episode.length for episode in results[1].episodes]


def test_another_backend_does_not_come_back() -> None:
    pytest.importorskip("envpool")
    pytest.importorskip("Box2D")
    envpool, gymnasium = (random_loop("car_racing", 5, backend=backend) for backend in ("envpool", "gymnasium"))
    envpool.collect(1)
    gymnasium.collect(1)
    assert not gymnasium.load_state_dict(envpool.state_dict())
    assert not envpool.load_state_dict(gymnasium.state_dict())


def test_a_simulator_that_does_not_come_back_is_noticed() -> None:
    loop = RolloutLoop(CounterVectorEnv(2), CheckingPolicy(), seed=1)
    loop.collect(70)
    other = RolloutLoop(CounterVectorEnv(2), CheckingPolicy(), seed=1)
    assert not other.load_state_dict(loop.state_dict())
    other.restart(1)
    assert other.collect(64).blocks[0].first_step == 0
