"""Vector environments: alignment, autoreset, equality of both kinds, failures."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from envs.faults import SimulatorError, instance_seed
from envs.registry import make_env, make_vector_env
from envs.specs import ArraySpec, EnvSpec, StepBatch, TimeStep, VectorEnv
from envs.subprocess_vector import SubprocessVectorEnv
from envs.vector import SerialVectorEnv


class CountingEnv:
    """Observation (seed, episode, step); episodes last 2 + episode % 3 steps; actions from 96 on fail."""

    def __init__(self, name: str = "counting") -> None:
        self.spec = EnvSpec(
            name,
            {"count": ArraySpec((3,), "int64")},
            ArraySpec((), "int64", num_values=100),
            metrics={"process": "last"},
        )
        self.seed, self.episode, self.count = 0, -1, 0
        self.offset = 0
        self.origin: dict[str, Any] = {}

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> TimeStep:
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.origin = {"seed": self.seed, "episode": self.episode, "options": options}
        self.offset = int((options or {}).get("offset", 0))
        self.episode += 1
        self.count = 0
        return self._time_step(is_first=True)

    def redo(self, origin: Mapping[str, Any]) -> TimeStep:
        self.seed, self.episode = origin["seed"], origin["episode"]
        return self.reset(options=origin["options"])

    def step(self, action: Any) -> TimeStep:
        if action == 99:
            raise FloatingPointError(f"diverged at step {self.count}")
        if action == 98:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == 97:
            time.sleep(1000)
        self.count += 1
        step = self._time_step(is_first=False)
        return replace(step, reward=math.nan) if action == 96 else step

    def _time_step(self, is_first: bool) -> TimeStep:
        is_last = self.count == 2 + self.episode % 3
        observation = {"count": np.array([self.seed, self.episode, self.count + self.offset])}
        return TimeStep(
            observation, float(self.count), is_first, is_last, is_last and self.episode % 2 == 0, {"process": 1.0}
        )

    def render(self) -> np.ndarray:
        return np.full((2, 2, 3), self.seed, np.uint8)

    def close(self) -> None:
        pass


def failing_factory() -> CountingEnv:
    raise FileNotFoundError("no such simulator")


Maker = Callable[[int], VectorEnv]


@pytest.fixture(params=["serial", "subprocess"])
def make(request: pytest.FixtureRequest) -> Any:
    made: list[VectorEnv] = []

    def build(num_envs: int) -> VectorEnv:
        factories = [CountingEnv] * num_envs
        env: VectorEnv = (
            SerialVectorEnv(factories) if request.param == "serial" else SubprocessVectorEnv(factories, num_workers=2)
        )
        made.append(env)
        return env

    yield build
    for env in made:
        env.close()


def steps(env: VectorEnv, first: StepBatch, count: int) -> list[StepBatch]:
    actions = np.zeros(env.num_envs, np.int64)
    return [first, *(env.step(actions) for _ in range(count))]


def test_autoreset_shows_the_true_last_observation(make: Maker) -> None:
    env = make(3)
    batches = steps(env, env.reset([7, 8, 9]), 12)
    expected = [(e, c) for e in range(4) for c in range(3 + e % 3)][:13]  # every step of every episode, in order
    for column, seed in enumerate([7, 8, 9]):
        seen = [tuple(batch.observation["count"][column].tolist()) for batch in batches]
        assert seen == [(seed, episode, count) for episode, count in expected]
        for batch, (episode, count) in zip(batches, expected, strict=True):
            last = count == 2 + episode % 3
            assert batch.is_first[column] == (count == 0)
            assert batch.is_last[column] == last
            assert batch.is_terminal[column] == (last and episode % 2 == 0)
            assert batch.reward[column] == count
            assert batch.info["process"][column] == 1.0


def test_arrays_belong_to_the_receiver(make: Maker) -> None:
    env = make(2)
    first = env.reset([0, 1])
    kept = first.observation["count"].copy(), first.is_first.copy()
    env.step(np.zeros(2, np.int64))
    assert_array_equal(first.observation["count"], kept[0])
    assert_array_equal(first.is_first, kept[1])
    first.observation["count"][:] = -1  # writable, and nobody minds
    assert env.step(np.zeros(2, np.int64)).observation["count"].min() >= 0


def test_dtypes_are_those_of_the_record(make: Maker) -> None:
    batch = make(2).reset([0, 1])
    assert batch.reward.dtype == np.float32
    assert batch.is_first.dtype == batch.is_last.dtype == batch.is_terminal.dtype == np.bool_
    assert batch.info["process"].dtype == np.float32


def test_options_hold_until_the_next_reset(make: Maker) -> None:
    env = make(1)
    batches = steps(env, env.reset([0], options={"offset": 100}), 4)
    assert [int(batch.observation["count"][0, 2]) for batch in batches] == [100, 101, 102, 100, 101]
    assert env.reset([0]).observation["count"][0, 2] == 0


def test_redo_brings_back_the_middle_of_an_episode(make: Maker) -> None:
    env, other = make(3), make(3)
    batches = steps(env, env.reset([7, 8, 9], options={"offset": 100}), 4)  # step 4 is step 1 of episode 1
    origins, taken = env.origins(), np.zeros(1, np.int64)
    for again in (other.redo(origins, [taken] * 3), env.redo(origins, [taken] * 3)):
        assert_array_equal(again.observation["count"], batches[-1].observation["count"])
        assert_array_equal(again.is_first, batches[-1].is_first)
    following = env.step(np.zeros(3, np.int64))
    assert_array_equal(following.observation["count"], [[7, 1, 102], [8, 1, 102], [9, 1, 102]])
    ended = other.redo(origins, [np.zeros(3, np.int64)] * 3)
    assert ended.is_last.all()
    assert other.step(np.zeros(3, np.int64)).is_first.all()
    with pytest.raises(ValueError, match="ends before the last of 4 actions"):
        other.redo(origins, [np.zeros(4, np.int64)] * 3)


@pytest.mark.parametrize(
    ("name", "options"), [("nav3d", {"layout": "random", "wind_std": 0.5}), ("gym:Pendulum-v1", {})]
)
def test_redo_is_exact_for_real_simulators(name: str, options: dict[str, Any]) -> None:
    env, other = (make_vector_env(name, 2, **options) for _ in range(2))
    rng = np.random.default_rng(0)
    env.reset([3, 4])
    history: list[Any] = []
    for _ in range(230):  # into the second episode
        actions = rng.uniform(-1, 1, (2, *env.spec.action.shape)).astype(np.float32)
        batch = env.step(actions)
        history = [] if batch.is_first.any() else [*history, actions]
    taken = np.stack(history, 1)
    again = other.redo(env.origins(), list(taken))
    for _ in range(2):
        assert_array_equal(again.observation["state"], batch.observation["state"])
        assert_array_equal(again.reward, batch.reward)
        actions = rng.uniform(-1, 1, (2, *env.spec.action.shape)).astype(np.float32)
        batch, again = env.step(actions), other.step(actions)


def test_render_picks_the_environment(make: Maker) -> None:
    env = make(3)
    env.reset([3, 4, 5])
    assert env.render()[0, 0, 0] == 3
    assert env.render(2)[0, 0, 0] == 5


@pytest.mark.parametrize(
    ("action", "kind", "text"),
    [
        (99, "exception", "FloatingPointError: diverged at step 1"),
        (96, "reward", "reward is nan, its spec says a finite"),
    ],
)
def test_a_failing_environment_is_made_again_and_the_others_go_on(
    make: Maker, action: int, kind: str, text: str
) -> None:
    env = make(3)
    env.reset([4, 5, 6], options={"offset": 100})
    env.step(np.zeros(3, np.int64))
    assert (list(env.remakes), env.take_faults()) == ([0, 0, 0], [])
    batch = env.step(np.array([0, action, 0]))
    (fault,) = env.take_faults()
    assert (fault.env, fault.kind, fault.where, fault.seed, fault.episode, fault.step) == (1, kind, "step", 5, 0, 2)
    assert fault.text.startswith(text)
    assert ("test_vector.py" in fault.traceback) == (kind == "exception")
    assert (list(env.remakes), env.take_faults()) == ([0, 1, 0], [])
    seed = instance_seed(5, 1)
    assert_array_equal(batch.observation["count"], [[4, 0, 102], [seed, 0, 100], [6, 0, 102]])
    assert_array_equal(batch.is_first, [False, True, False])
    assert_array_equal(batch.is_last, [True, False, True])
    assert_array_equal(batch.reward, [2.0, 0.0, 2.0])
    origins = env.origins()
    batch = env.step(np.zeros(3, np.int64))
    assert_array_equal(batch.observation["count"], [[4, 1, 100], [seed, 0, 101], [6, 1, 100]])
    env.step(np.array([0, action, 0]))
    assert batch.observation["count"][1, 0] not in (5, instance_seed(5, 2))
    assert env.take_faults()[0].seed == seed
    env.redo(origins, [np.zeros(0, np.int64)] * 3)  # also how often each was made again comes back
    assert list(env.remakes) == [0, 1, 0]
    env.step(np.array([0, action, 0]))
    assert env.step(np.zeros(3, np.int64)).observation["count"][1, 0] == instance_seed(5, 2)
    assert env.reset([4, 5, 6]).observation["count"][:, 0].tolist() == [4, 5, 6]
    assert list(env.remakes) == [0, 0, 0]


class Flaky(CountingEnv):
    """Fails in the first `left` resets of all instances."""

    left = 0

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> TimeStep:
        if Flaky.left > 0:
            Flaky.left -= 1
            raise TypeError("not yet") if Flaky.left % 2 else SystemExit(3)
        return super().reset(seed, options)


def test_an_environment_that_fails_each_time_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.vector.REMAKE_WAITS", (0.0, 0.0, 0.0))
    env = SerialVectorEnv([CountingEnv, Flaky])
    monkeypatch.setattr(Flaky, "left", 3)
    batch = env.reset([0, 1])
    assert batch.observation["count"][1, 0] == instance_seed(1, 3)
    faults = env.take_faults()
    assert [(fault.where, fault.seed) for fault in faults] == [("reset", instance_seed(1, n)) for n in range(3)]
    assert [fault.text for fault in faults] == ["SystemExit: 3", "TypeError: not yet", "SystemExit: 3"]
    for _ in range(2):
        env.step(np.zeros(2, np.int64))
    monkeypatch.setattr(Flaky, "left", 4)  # in the reset after the last step
    with pytest.raises(SimulatorError, match=r"counting: environment 1 fails each of the 3 times .*SystemExit: 3"):
        env.step(np.zeros(2, np.int64))
    assert len(env.take_faults()) == 4
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(2, np.int64))
    assert env.reset([0, 1]).is_first.all()


def test_invalid_actions_step_nothing(make: Maker) -> None:
    env = make(2)
    env.reset([0, 1])
    for actions in (np.array([0, 100]), np.zeros(3, np.int64), np.zeros(2)):
        with pytest.raises(ValueError, match="action"):
            env.step(actions)
    assert_array_equal(env.step(np.zeros(2, np.int64)).observation["count"][:, 2], [1, 1])


def test_misuse_is_refused(make: Maker) -> None:
    env = make(2)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="seeds"):
        env.reset([1])


def test_lost_workers_are_replaced() -> None:
    env = SubprocessVectorEnv([CountingEnv] * 5, 2, step_timeout_seconds=1.0)  # rows 0 and 1, rows 2 to 4
    env.reset(range(5))
    env.step(np.zeros(5, np.int64))
    batch = env.step(np.array([0, 0, 0, 98, 0]))
    (fault,) = env.take_faults()
    assert (fault.env, fault.kind, fault.where, fault.seed, fault.step) == (3, "death", "step", 3, 2)
    assert "died with signal SIGKILL" in fault.text
    assert list(env.remakes) == [0, 0, 1, 1, 1]
    assert batch.is_first.tolist() == [False, False, True, True, True]
    assert batch.observation["count"][:, 0].tolist() == [0, 1, *(instance_seed(row, 1) for row in (2, 3, 4))]
    assert not batch.reward[2:].any()
    assert batch.observation["count"][:2, 2].tolist() == [2, 2]

    batch = env.step(np.array([0, 97, 0, 0, 0]))
    assert env.take_faults() == []  # the action after a last step is not taken
    batch = env.step(np.array([0, 97, 0, 0, 0]))
    (fault,) = env.take_faults()
    assert (fault.env, fault.kind, fault.where, fault.episode, fault.step) == (1, "timeout", "step", 1, 1)
    assert "1 s" in fault.text
    assert batch.is_first.tolist() == [True, True, False, False, False]
    assert list(env.remakes) == [1] * 5

    for pid in [worker._process.pid for worker in env._workers]:  # between two steps
        os.kill(pid, signal.SIGKILL)
    assert env.origins() == [{}] * 5
    with pytest.raises(RuntimeError, match="environment 4 cannot be drawn"):
        env.render(4)
    batch = env.step(np.zeros(5, np.int64))
    assert batch.is_first.all()
    assert [(fault.env, fault.kind) for fault in env.take_faults()] == [(0, "death"), (2, "death")]
    assert list(env.remakes) == [2] * 5
    started = time.monotonic()
    env.close()
    env.close()
    assert time.monotonic() - started < 4.0


def test_environments_that_cannot_be_made_raise_here() -> None:
    with pytest.raises(FileNotFoundError, match="no such simulator"):
        SubprocessVectorEnv([CountingEnv, failing_factory], 2)
    with pytest.raises(ValueError, match="did you mean 'layout'"):
        make_vector_env("nav3d", 2, "subprocess", num_workers=1, layuot="fixed")


def test_different_environments_are_refused() -> None:
    factories: list[Callable[[], CountingEnv]] = [CountingEnv, partial(CountingEnv, "other")]
    with pytest.raises(ValueError, match="different specs"):
        SerialVectorEnv(factories)
    with pytest.raises(ValueError, match="different specs"):
        SubprocessVectorEnv(factories, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [("nav3d", {"layout": "random", "wind_std": 0.2, "max_episode_steps": 20}), ("nav3d_image", {"image_size": 16})],
)
def test_both_kinds_give_the_streams_of_single_environments(name: str, options: dict[str, Any]) -> None:
    num_envs, num_steps = 5, 45
    actions = np.random.default_rng(0).uniform(-1, 1, (num_steps, num_envs, 3)).astype(np.float32)
    serial = make_vector_env(name, num_envs, **options)
    spread = make_vector_env(name, num_envs, "subprocess", num_workers=2, **options)
    single = make_env(name, **options)
    ours = [serial.reset(range(num_envs)), *(serial.step(a) for a in actions)]
    theirs = [spread.reset(range(num_envs)), *(spread.step(a) for a in actions)]
    spread.close()
    for a, b in zip(ours, theirs, strict=True):
        for left, right in zip(_arrays(a), _arrays(b), strict=True):
            assert_array_equal(left, right)
    step = single.reset(seed=3)
    for t, batch in enumerate(ours):
        for key, value in step.observation.items():
            assert_array_equal(batch.observation[key][3], value)
        assert batch.reward[3] == np.float32(step.reward)
        if t < num_steps:
            step = single.reset() if step.is_last else single.step(actions[t, 3])


def _arrays(batch: StepBatch) -> list[np.ndarray]:
    return [
        *batch.observation.values(),
        batch.reward,
        batch.is_first,
        batch.is_last,
        batch.is_terminal,
        *batch.info.values(),
    ]
