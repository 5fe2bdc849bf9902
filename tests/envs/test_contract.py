"""What environments return is refused by environment, key and both values, however they are stepped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs.adapters import GymnasiumEnv
from envs.contract import ALWAYS_CHECKED_TICKS, ContractError
from envs.specs import VectorEnv
from envs.subprocess_vector import SubprocessVectorEnv
from envs.vector import SerialVectorEnv

STATE = np.array([0.5, -0.5, 0.0], np.float32)
PLAIN = {
    "observation": {"state": STATE, "image": np.zeros((2, 2, 3), np.uint8), "id": 2},
    "reward": 1.0,
    "terminated": False,
    "truncated": False,
    "cost": 1.0,
}


class Returns(gym.Env[Any, Any]):
    """Returns what it is told from step `at` on, and what its spaces say before.

    Args:
        changes: Parts of a step; a change of "observation" goes over the plain one, None takes a key away.
        at: Step of the instance.
    """

    metrics = {"cost": "sum"}  # noqa: RUF012

    def __init__(self, changes: dict[str, Any], at: int = 2) -> None:
        box = partial(spaces.Box, dtype=np.float32)
        image = spaces.Box(0, 255, (2, 2, 3), np.uint8)
        self.observation_space = spaces.Dict({"state": box(-1.0, 1.0, (3,)), "image": image, "id": spaces.Discrete(4)})
        self.action_space = spaces.Discrete(2)
        self.changes, self.at, self.taken = changes, at, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return PLAIN["observation"], {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.taken += 1
        changes = self.changes if self.taken >= self.at else {}
        step = {**PLAIN, **changes}
        observation = {**PLAIN["observation"], **changes.get("observation", {})}
        observation = {key: value for key, value in observation.items() if value is not None}
        return observation, step["reward"], step["terminated"], step["truncated"], {"cost": step["cost"]}


def make_returns(changes: dict[str, Any], at: int) -> GymnasiumEnv:
    return GymnasiumEnv(Returns(changes, at), "toy")


Maker = Callable[..., VectorEnv]


@pytest.fixture(params=["serial", "subprocess"])
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    made: list[VectorEnv] = []

    def build(changes: dict[str, Any], at: int = 2, check_share: float = 0.01) -> VectorEnv:
        factories = [partial(make_returns, {}, 0), partial(make_returns, changes, at)]
        kinds = {"serial": SerialVectorEnv, "subprocess": partial(SubprocessVectorEnv, num_workers=1)}
        made.append(kinds[request.param](factories, check_share=check_share))
        return made[-1]

    yield build
    for env in made:
        env.close()


def take(env: VectorEnv, steps: int) -> Any:
    env.reset([0, 1])
    for _ in range(steps):
        batch = env.step(np.zeros(2, np.int64))
    return batch


BROKEN = [
    ({"observation": {"id": None}}, r"toy: .*\['image', 'state'\], its spec says \['id', 'image', 'state'\]"),
    ({"observation": {"depth": STATE}}, r"toy: .*\['depth', 'id', 'image', 'state'\], its spec"),
    ({"observation": {"state": STATE[:1]}}, r"toy: 'state' has shape \(1,\), its spec says \(3,\)"),
    ({"observation": {"state": np.zeros((1, 3), np.float32)}}, r"toy: 'state' has shape \(1, 3\).*\(3,\)"),
    ({"observation": {"image": np.zeros((2, 2, 3))}}, "toy: 'image' is .* of dtype float64, its spec says uint8"),
    ({"observation": {"image": np.full((2, 2, 3), 256)}}, "toy: 'image' is .*256.* of dtype int64.*uint8"),
    ({"observation": {"state": ["a", "b", "c"]}}, "toy: 'state' is .*'a'.* of dtype <U1, its spec says float32"),
    ({"observation": {"state": STATE + 1}}, r"toy: 'state'\[0\] is 1.5, its spec says \[-1.0, 1.0\]"),
    ({"observation": {"id": 4}}, r"toy: 'id' is 4, its spec says \[0.0, 3.0\]"),
    ({"terminated": 1}, "toy: terminated is 1, its spec says true or false"),
    ({"truncated": None}, "toy: truncated is None, its spec says true or false"),
    ({"cost": "much"}, "toy: metric 'cost' is 'much'"),
    ({"cost": np.zeros(2)}, r"toy: metric 'cost' is array\(\[0., 0.\]\), no number"),
]

FAULTS = [
    ({"observation": {"state": STATE * np.nan}}, "nonfinite", "'state' is [nan nan nan], its spec says finite numbers"),
    ({"observation": {"state": np.array([0.0, 1e300, 0.0])}}, "nonfinite", "'state' is [ 0. inf 0.], its spec says"),
    ({"cost": float("nan")}, "nonfinite", "metric 'cost' is nan, no finite number"),
    ({"reward": np.zeros(2)}, "reward", "reward is array([0., 0.]), its spec says one number"),
    ({"reward": None}, "reward", "reward is None, its spec says one number"),
    ({"reward": "much"}, "reward", "reward is 'much', its spec says one number"),
    ({"reward": 10**400}, "reward", "reward is 1000"),
    ({"reward": float("nan")}, "reward", "reward is nan, its spec says a finite"),
    ({"reward": 1e39}, "reward", "reward is 1e+39, its spec says a finite"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_what_the_spec_rules_out_is_refused(changes: dict[str, Any], message: str) -> None:
    env = SerialVectorEnv([partial(make_returns, {}, 0), partial(make_returns, changes, 2)])
    take(env, 1)
    with pytest.raises(ContractError, match=message):
        env.step(np.zeros(2, np.int64))


@pytest.mark.parametrize(("changes", "kind", "text"), FAULTS)
def test_numbers_that_are_none_are_faults(changes: dict[str, Any], kind: str, text: str) -> None:
    env = SerialVectorEnv([partial(make_returns, {}, 0), partial(make_returns, changes, 2)])
    take(env, 1)
    batch = env.step(np.zeros(2, np.int64))
    (fault,) = env.take_faults()
    assert (fault.env, fault.kind, fault.step) == (1, kind, 2)
    assert fault.text.startswith(text)
    assert fault.traceback == ""
    np.testing.assert_array_equal(batch.observation["state"], [STATE, STATE])
    assert (batch.reward.tolist(), batch.info["cost"].tolist()) == ([1.0, 0.0], [1.0, 0.0])
    assert (batch.is_first.tolist(), batch.is_last.tolist()) == ([False, True], [False, False])


def test_all_of_one_tick_that_fail_are_made_again() -> None:
    broken = {"observation": {"state": np.full(3, np.inf)}, "truncated": True}
    env = SerialVectorEnv([partial(make_returns, broken, 2)] * 3)
    env.reset([0, 1, 2])
    env.step(np.zeros(3, np.int64))
    batch = env.step(np.zeros(3, np.int64))
    assert [fault.env for fault in env.take_faults()] == [0, 1, 2]
    assert (batch.is_first.all(), batch.is_last.any()) == (True, False)
    assert not env.step(np.zeros(3, np.int64)).is_first.any()


def test_a_worker_process_refuses_alike(make: Maker) -> None:
    with pytest.raises(ContractError, match=r"toy: 'state' has shape \(1,\), its spec says \(3,\)"):
        take(make({"observation": {"state": STATE[:1]}}), 2)


def test_what_means_the_same_is_taken(make: Maker) -> None:
    changes = {
        "observation": {"state": STATE.astype(np.float64), "image": np.ones((2, 2, 3), np.int64), "id": np.int8(3)},
        "reward": np.array([2]),
        "terminated": np.False_,
        "truncated": np.True_,
        "cost": np.array(3.0),
    }
    batch = take(make(changes), 2)
    np.testing.assert_array_equal(batch.observation["state"], [STATE, STATE])
    assert batch.observation["image"].dtype == np.uint8
    assert batch.observation["id"].tolist() == [2, 3]
    assert batch.reward.tolist() == [1.0, 2.0]
    assert (batch.is_last.tolist(), batch.is_terminal.tolist()) == ([False, True], [False, False])
    assert batch.info["cost"].tolist() == [1.0, 3.0]


def test_a_reset_is_checked_too() -> None:
    class Bad(Returns):
        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return {**PLAIN["observation"], "state": STATE[:2]}, {}

    with pytest.raises(ContractError, match=r"'state' has shape \(2,\), its spec says \(3,\)"):
        SerialVectorEnv([lambda: GymnasiumEnv(Bad({}), "toy")]).reset([0])


def test_ranges_are_checked_at_first_and_then_at_a_share(
    make: Maker, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    outside = {"observation": {"state": STATE + 1}}
    with pytest.raises(ContractError, match=r"env\.check_share=0"):
        take(make(outside, at=3), 3)
    late = ALWAYS_CHECKED_TICKS + 10
    take(make(outside, at=late, check_share=0.01), late + 1)  # the next one is looked at 90 ticks later
    assert not caplog.records
    take(make(outside, at=late, check_share=0.01), 3 * ALWAYS_CHECKED_TICKS + 1)
    told = caplog.text + capfd.readouterr().err  # here, or by a worker
    assert told.count("toy: 'state'[0] is 1.5, its spec says [-1.0, 1.0]") == 1
    ids = {"observation": {"id": np.int64(9)}}
    with pytest.raises(ContractError, match="'id' is 9"):
        take(make(ids, at=late, check_share=0.01), 2 * ALWAYS_CHECKED_TICKS + 1)
    take(make(outside, at=3, check_share=0.0), 5)


@pytest.mark.parametrize(("result", "words"), [(None, "one NoneType"), ((STATE, 0.0, False, {}), "4 values")])
def test_a_step_that_is_not_gymnasiums_is_refused(result: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_returns({}, 2)
    env.reset(seed=0)
    monkeypatch.setattr(Returns, "step", lambda self, action: result)
    with pytest.raises(ContractError, match=f"toy: step returns {words}, Gymnasium says"):
        env.step(np.zeros((), np.int64))
    monkeypatch.setattr(Returns, "reset", lambda self, **options: STATE)
    with pytest.raises(ContractError, match="toy: reset returns one ndarray, Gymnasium says"):
        env.reset(seed=0)


@pytest.mark.parametrize("name", ["episode_return", "episodes", "a/b"])
def test_metrics_do_not_take_names_of_the_runs_own(name: str) -> None:
    spec = make_returns({}, 2).spec
    with pytest.raises(ValueError, match=f"metric '{name}' of toy needs another name"):
        replace(spec, metrics={name: "last"})
