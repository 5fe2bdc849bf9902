from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

from actors.carry import take_rows
from actors.evaluate import (
    DEFAULT_MAX_STEPS,
    EvalConfig,
    Evaluation,
    EvaluationStopped,
    Evaluator,
    bootstrap_interval,
    wilson_interval,
)
from actors.random_policy import RandomPolicy
from envs.faults import Fault, SimulatorError
from envs.registry import make_vector_env
from envs.specs import StepBatch
from envs.testing.counter import COUNTER_NAME, COUNTER_SPEC, IMAGE_SHAPE, CounterVectorEnv
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


def test_max_steps_cuts_an_episode_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    whole = Evaluator(CounterVectorEnv, EvalConfig(8, 3, 4)).evaluate(CheckingPolicy())
    assert (whole.summary.cut, whole.summary.max_steps, caplog.records) == (0, 60, [])
    result = Evaluator(CounterVectorEnv, EvalConfig(8, 3, 4, max_steps=5)).evaluate(CheckingPolicy())
    assert [e.length for e in result.episodes] == [min(5, e.length) for e in whole.episodes]
    assert [e.cut for e in result.episodes] == [e.length > 5 for e in whole.episodes]
    assert result.summary.cut == sum(e.cut for e in result.episodes) > 0
    assert result.summary.max_steps == 5
    assert f"{result.summary.cut} of 8 episodes of counter had no end within 5 steps" in caplog.text


@pytest.mark.parametrize(("declared", "limit"), [(None, DEFAULT_MAX_STEPS), (7, 7)])
def test_an_episode_without_an_end_is_cut_at_the_limit_or_the_default(declared: int | None, limit: int) -> None:
    class Endless(CounterVectorEnv):
        def __init__(self, num_envs: int) -> None:
            super().__init__(num_envs)
            self.spec = replace(COUNTER_SPEC, max_episode_steps=declared)
            self._endless = self.reset([0])

        def step(self, actions: np.ndarray) -> StepBatch:
            none = np.zeros(self.num_envs, np.bool_)
            return replace(self._endless, is_first=none, is_last=none, is_terminal=none)

    result = Evaluator(Endless, EvalConfig(episodes=1, num_envs=1)).evaluate(RandomPolicy(COUNTER_SPEC.action))
    assert (result.episodes[0].length, result.episodes[0].cut, result.summary.cut) == (limit, True, 1)


def test_an_evaluation_can_be_stopped_between_two_steps() -> None:
    policy, asked = CheckingPolicy(), []

    def stopping() -> bool:
        asked.append(policy.rows)
        return len(asked) > 3

    with pytest.raises(EvaluationStopped):
        Evaluator(CounterVectorEnv, EvalConfig(episodes=7, num_envs=4)).evaluate(policy, stopping=stopping)
    assert asked == [0, 4, 8, 12]


class FaultyEnv(CounterVectorEnv):
    """Fails as told: {step since the last reset: rows}; row -1 means for good."""

    plan: ClassVar[dict[int, list[int]]] = {}
    made: ClassVar[list[int]] = []

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.made.append(num_envs)
        self._faults: list[Fault] = []

    def take_faults(self) -> list[Fault]:
        faults, self._faults = self._faults, []
        return faults

    def reset(self, seeds: Sequence[int], options: Any = None) -> StepBatch:
        self._ticks, self.remakes = 0, [0] * self.num_envs
        return self._fail(super().reset(seeds, options))

    def step(self, actions: np.ndarray) -> StepBatch:
        self._ticks += 1
        return self._fail(super().step(actions))

    def _fail(self, step: StepBatch) -> StepBatch:
        for row in self.plan.get(self._ticks, []):
            if row < 0:
                raise SimulatorError("counter fails however often it is made again")
            self.remakes[row] += 1
            self._faults.append(Fault(row, "exception", "step", self._seeds[row], 0, self._ticks, "it broke"))
            step.is_first[row], step.is_last[row], step.reward[row] = True, False, 0.0
        return step


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[FaultyEnv]:
    monkeypatch.setattr(FaultyEnv, "made", [])
    return FaultyEnv


def test_an_episode_whose_simulator_fails_counts_as_failed_and_is_named(
    faulty: type[FaultyEnv], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = EvalConfig(episodes=6, num_envs=6, seed=4, keep_episodes=6)
    whole = Evaluator(CounterVectorEnv, config).evaluate(CheckingPolicy())
    assert min(e.length for e in whole.episodes) >= 3
    monkeypatch.setattr(faulty, "plan", {0: [1], 3: [2, 4], 50: [0]})
    evaluator = Evaluator(faulty, config)
    result = evaluator.evaluate(CheckingPolicy())
    assert [e.faults for e in result.episodes] == [int(whole.episodes[0].length > 50), 1, 1, 0, 1, 0]
    for n in (3, 5):
        assert result.episodes[n] == whole.episodes[n]
    assert [(e.length, e.episode_return) for e in result.episodes[1:3]] == [(0, 0.0), (2, 3.0)]
    assert result.episodes[2].metrics == {"cost": 2.0, "is_success": 0.0}
    failed = [n for n, e in enumerate(result.episodes) if e.faults]
    assert result.summary.fault_seeds == tuple(evaluator.env_seeds[n] for n in failed)
    assert (result.summary.faults, result.summary.success_rate) == (len(failed), 1 - len(failed) / 6)
    assert len(result.streams) == 6 - len(failed)
    assert len(caplog.records) == 1
    assert str(evaluator.env_seeds[2]) in caplog.text
    assert "it broke" in caplog.text


def test_faults_of_real_simulators_end_their_own_episodes_alone() -> None:
    kinds = ("exception", "nonfinite", "reward")
    config = EvalConfig(episodes=12, num_envs=5, seed=2, keep_episodes=12)

    def evaluated(**options: Any) -> Evaluation:
        evaluator = Evaluator(lambda n: make_vector_env(COUNTER_NAME, n, **options), config)
        return evaluator.evaluate(RandomPolicy(COUNTER_SPEC.action))

    whole, result = evaluated(), evaluated(fault_share=0.02, fault_kinds=kinds)
    failed = [bool(e.faults) for e in result.episodes]
    assert result.summary.faults == sum(failed) == len(result.summary.fault_seeds)
    assert 0 < sum(failed) < 12
    for one, other, fault in zip(whole.episodes, result.episodes, failed, strict=True):
        assert other.length < one.length if fault else other == one
    assert [len(stream["reward"]) for stream in result.streams] == [
        e.length + 1 for e, fault in zip(whole.episodes, failed, strict=True) if not fault
    ]


def test_environments_that_fail_for_good_are_made_again_for_the_next_wave(
    faulty: type[FaultyEnv], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faulty, "plan", {3: [-1]})
    result = Evaluator(faulty, EvalConfig(episodes=4, num_envs=2, seed=4)).evaluate(CheckingPolicy())
    assert [(e.length, e.faults) for e in result.episodes] == [(2, 1)] * 4
    assert faulty.made == [2, 2]


@pytest.mark.parametrize("picture", [RuntimeError("draws nothing"), None, [1]])
def test_a_film_that_cannot_be_drawn_is_left_out_with_its_reason(picture: Any) -> None:
    class Blind(CounterVectorEnv):
        def render(self, index: int = 0) -> np.ndarray:
            if isinstance(picture, Exception) and self._count[index] == 3:
                raise picture
            return super().render(index) if isinstance(picture, Exception) else picture

    config = EvalConfig(episodes=4, num_envs=2, record_episodes=3)
    result = Evaluator(Blind, config).evaluate(CheckingPolicy())
    assert result.summary == Evaluator(CounterVectorEnv, config).evaluate(CheckingPolicy()).summary
    assert result.frames == []
    assert result.no_frames
    if isinstance(picture, Exception):
        assert result.no_frames == "RuntimeError: draws nothing"


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
