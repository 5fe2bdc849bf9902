from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from actors.carry import take_rows
from actors.evaluate import EvalConfig, Evaluator, bootstrap_interval, wilson_interval
from actors.random_policy import RandomPolicy
from envs.testing.counter import IMAGE_SHAPE, CounterVectorEnv
from tests.fakes import CheckingPolicy


def test_results_do_not_depend_on_the_size_of_a_wave() -> None:
    results = [
        Evaluator(CounterVectorEnv, EvalConfig(episodes=13, num_envs=n, seed=4)).evaluate(CheckingPolicy(), "fake")
        for n in (1, 4, 5, 13, 40)
    ]
    for other in results[1:]:
        assert other.episodes == results[0].episodes
        assert other.summary == results[0].summary
    summary = results[0].summary
    assert (summary.env, summary.algorithm, summary.episodes, summary.seed) == ("counter", "fake", 13, 4)
    assert len({e.length for e in results[0].episodes}) > 3
    assert summary.steps == sum(e.length for e in results[0].episodes)
    assert summary.return_mean == np.mean([e.length * (e.length + 1) / 2 for e in results[0].episodes])
    assert summary.metrics == {"cost": pytest.approx(summary.length_mean), "is_success": 1.0}
    assert summary.success_rate == 1.0
    assert summary.success_ci95 is not None
    assert summary.success_ci95[0] == pytest.approx(0.7719, abs=1e-4)
    assert summary.return_ci95[0] < summary.return_mean < summary.return_ci95[1]


def test_steps_of_the_first_episodes_are_kept_as_rollout_would_store_them() -> None:
    for num_envs in (2, 10):
        config = EvalConfig(episodes=5, num_envs=num_envs, seed=4, keep_episodes=3)
        result = Evaluator(CounterVectorEnv, config).evaluate(CheckingPolicy())
        assert len(result.streams) == 3
        for stream, episode in zip(result.streams, result.episodes, strict=False):
            length = episode.length + 1
            assert {len(values) for values in stream.values()} == {length}
            assert stream["count"][:, 0].tolist() == list(range(length))
            assert stream["is_first"].tolist() == [True] + [False] * episode.length
            assert stream["is_last"].tolist() == [False] * episode.length + [True]
            np.testing.assert_array_equal(stream["state"][1:, 2:], stream["action"][:-1])
            assert not stream["action"][-1].any()
            assert stream["reward"].sum() == pytest.approx(episode.episode_return)
            assert not stream["episode"].any()
    assert Evaluator(CounterVectorEnv, EvalConfig(episodes=2)).evaluate(CheckingPolicy()).streams == []


def test_finished_environments_leave_the_policy_batch() -> None:
    policy = CheckingPolicy()
    result = Evaluator(CounterVectorEnv, EvalConfig(episodes=7, num_envs=4)).evaluate(policy)
    assert policy.rows == result.summary.steps


def test_random_rows_do_not_depend_on_the_wave_either() -> None:
    action = CounterVectorEnv(1).spec.action

    def actions_seen(num_envs: int) -> list[np.ndarray]:
        seen: dict[int, list] = {}

        class Recording(CounterVectorEnv):
            def step(self, actions: np.ndarray):  # type: ignore[no-untyped-def]
                for n, seed in enumerate(self._seeds):
                    if self._episode[n] == 0 and not self._last[n]:
                        seen.setdefault(seed, []).append(actions[n].copy())
                return super().step(actions)

        Evaluator(Recording, EvalConfig(episodes=6, num_envs=num_envs)).evaluate(RandomPolicy(action))
        return [np.array(seen[seed]) for seed in sorted(seen)]

    for a, b in zip(actions_seen(2), actions_seen(6), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_seeds_are_other_episodes() -> None:
    lengths = [
        [e.length for e in Evaluator(CounterVectorEnv, EvalConfig(10, 5, seed)).evaluate(CheckingPolicy()).episodes]
        for seed in (0, 1)
    ]
    assert lengths[0] != lengths[1]


def test_frames_of_the_first_episodes() -> None:
    config = EvalConfig(episodes=4, num_envs=3, record_episodes=2, record_stride=1)
    result = Evaluator(CounterVectorEnv, config).evaluate(CheckingPolicy())
    assert [f.shape for f in result.frames] == [(e.length + 1, *IMAGE_SHAPE) for e in result.episodes[:2]]
    np.testing.assert_array_equal(result.frames[0][:, 0, 0, 0], np.arange(result.episodes[0].length + 1))


def test_max_steps_cuts_an_episode() -> None:
    result = Evaluator(CounterVectorEnv, EvalConfig(8, 3, 4, max_steps=5)).evaluate(CheckingPolicy())
    assert max(e.length for e in result.episodes) == 5


def test_wilson_interval_reference_values() -> None:
    assert wilson_interval(90, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_bootstrap_interval_covers_like_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


class Pair(NamedTuple):
    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True)
class Carry:
    x: np.ndarray
    nested: dict
    nothing: None = None


def test_take_rows_walks_the_tree() -> None:
    carry = Carry(np.arange(4), {"p": Pair(np.arange(8).reshape(4, 2), np.zeros(4)), "l": [np.arange(4)]})
    taken = take_rows(carry, np.array([True, False, False, True]))
    assert taken.x.tolist() == [0, 3]
    assert taken.nested["p"].a.tolist() == [[0, 1], [6, 7]]
    assert taken.nested["l"][0].tolist() == [0, 3]
    assert taken.nothing is None
    with pytest.raises(TypeError, match="leaf of type int has no rows"):
        take_rows({"count": 3}, np.array([0]))


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        EvalConfig(episodes=0)
