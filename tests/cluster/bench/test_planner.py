"""The planner benchmark's rows on a tiny problem; no times are asserted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cluster.bench import planner as bench
from cluster.bench.planner_peers import Problem, random_weights, torch_eager
from envs.specs import ArraySpec, EnvSpec, StepBatch
from native import cpu_features
from native.reference import EnsembleReference
from planners.config import CemConfig, IcemConfig
from planners.sampling import SamplingPlanner
from tests.planners.test_ensemble import make_weights

TINY = Problem("tiny", 3, 2, members=2, hidden=16, population=60, elites=10, iterations=3, horizon=4)
has_bf16 = pytest.mark.skipif(
    not (cpu_features()["avx512bf16"] or cpu_features()["amx_bf16"]), reason="needs bf16 instructions"
)


def test_the_reference_problems_cost_what_the_notes_say() -> None:
    small, large = bench.PROBLEMS
    assert small.flop == pytest.approx(88.2e9, rel=0.001)
    assert large.flop == pytest.approx(111.5e9, rel=0.001)


def test_latency_names_every_planner_and_every_missing_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mbrl", None)
    monkeypatch.setitem(sys.modules, "pytorch_mppi", None)
    rows = list(bench.run([TINY], threads=[1], rounds=2))
    risky = [row for row in rows if "risk, " in row.case]
    assert len(risky) == 8
    assert all(row.peer == "mean" and row.ratio is not None and row.value > 0 for row in risky)
    timed = [row for row in rows if row.unit == "ms" and row not in risky]
    assert {row.peer for row in timed} == {
        "torch eager", "mbrl-lib (skipped: not installed)", "pytorch_mppi (skipped: not installed)",
    }  # fmt: skip
    for row in timed:
        assert row.value > 0
        if row.peer == "torch eager":
            assert row.peer_value is not None
            assert row.ratio == pytest.approx(row.peer_value / row.value)
        else:
            assert row.peer_value is None
            assert row.ratio is None
    assert any(row.case.startswith("tiny: cem fp32 (") for row in timed)


@has_bf16
def test_fp32_and_bf16_share_their_elites() -> None:
    rows = list(bench.shared_elites(bench.PROBLEMS[0], observations=2))
    assert [row.unit for row in rows] == ["of 100", "of 100"]
    assert all(95 <= row.value <= 100 for row in rows)


def test_the_torch_peer_solves_the_same_problem() -> None:
    """Its plan scores about as well under the ensemble as ours does, and far better than doing nothing."""
    problem = Problem("medium", 3, 2, members=3, hidden=16, population=200, elites=20, iterations=5, horizon=1)
    weights = random_weights(problem, 0) | {"max_logvar": np.full(4, -8.0, np.float32)}  # little noise
    torch.manual_seed(0)
    twin = EnsembleReference(weights)
    observation = np.array([0.5, -0.5, 1.0], np.float32)
    config = bench.reference_config(problem, CemConfig, precision="fp32")
    ours = SamplingPlanner(config, *bench._box(problem), bench._evaluator(problem, config, weights))
    plan, _ = ours.plan(observation[None], ours.initial(np.zeros(1, np.uint64)), np.ones(1, np.bool_), explore=False)
    actions = np.stack([plan.action[0], torch_eager(problem, weights)(observation), np.zeros(2, np.float32)])
    reward = twin.predict(np.tile(observation, (3, 1)), actions)[0][..., -1].mean(axis=0)
    assert reward[1] == pytest.approx(reward[0], abs=0.1 * (reward[0] - reward[2]))
    assert reward[0] > reward[2]


class PointEnv:
    """The environment that `make_weights` models exactly: state += action / 2, reward -|state|_1, 5 steps."""

    spec = EnvSpec("point", {"state": ArraySpec((2,), "float32")}, ArraySpec((2,), "float32", low=-1.0, high=1.0), 5)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(self, seeds: Sequence[int], options: Any = None) -> StepBatch:
        self._state = np.stack([np.random.default_rng(seed).uniform(-1, 1, 2) for seed in seeds]).astype(np.float32)
        self._step = 0
        return self._batch(np.zeros(self.num_envs, np.float32))

    def step(self, actions: NDArray[Any]) -> StepBatch:
        reward = -np.abs(self._state).sum(axis=1)
        self._state = self._state + 0.5 * actions
        self._step += 1
        return self._batch(reward)

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        return np.zeros((1, 1, 3), np.uint8)

    def close(self) -> None:
        pass

    def _batch(self, reward: NDArray[np.float32]) -> StepBatch:
        flags = (np.full(self.num_envs, flag) for flag in (self._step == 0, self._step == 5, False))
        return StepBatch({"state": self._state.copy()}, reward, *flags)


@has_bf16
def test_closed_loop_compares_the_same_episodes() -> None:
    config = IcemConfig(horizon=4, population=100, elites=10, iterations=3)
    returns, difference = bench.closed_loop(
        make_weights(), PointEnv.spec, ("state",), config, PointEnv, episodes=20, seed=1
    )
    assert returns.peer == "fp32"
    assert returns.peer_value is not None
    assert difference.value == pytest.approx(returns.value - returns.peer_value, abs=1e-5)
    assert difference.peer == "standard error"
    assert -3.0 < returns.value < -0.5
    assert abs(difference.value) < 0.1
