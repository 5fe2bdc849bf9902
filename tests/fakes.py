"""A self-checking environment and consumer.

Every observation carries the number of the step within its stream and within its episode, in several
dtypes, and the action the environment received. `check_sequences` then finds any step that was lost,
doubled, reordered or paired with another step's action on the way to the learner. `RecurrentPolicy` marks the steps
of any environment in the same way, by its extras, and `check_extras` reads them.

`gym:tests.fakes:WorldfleetCounter-v0` is the same environment for Gymnasium, and `ReachEnv` one that is soon learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from actors.random_policy import RandomPolicy
from actors.records import PolicyOutput
from actors.rollout import unpack_stream_id
from envs.specs import ArraySpec, EnvSpec, StepBatch
from learner.batch import SequenceBatch

ACTION_SIZE = 2
GYM_ID = "WorldfleetCounter-v0"
ENV_NAME = f"gym:tests.fakes:{GYM_ID}"
IMAGE_SHAPE = (4, 4, 3)
REACH_ID = "WorldfleetReach-v0"
REACH_NAME = f"gym:tests.fakes:{REACH_ID}"

COUNTER_SPEC = EnvSpec(
    name="counter",
    observation={
        "image": ArraySpec(IMAGE_SHAPE, "uint8", 0, 255),  # all pixels: step of the stream, modulo 256
        "state": ArraySpec((2 + ACTION_SIZE,), "float32"),  # step of the episode, of the stream, last action
        "count": ArraySpec((2,), "int64", 0, 2.0**62),  # step of the episode, of the stream
    },
    action=ArraySpec((ACTION_SIZE,), "float32", -1.0, 1.0),
    max_episode_steps=60,
    metrics={"cost": "sum", "is_success": "last"},
)


def episode_length(seed: int, episode: int) -> int:
    """Actions of an episode, 1 to 60."""
    return 1 + (seed * 7919 + episode * 104729) % 60


class CounterVectorEnv:
    """N counting environments; odd episodes are truncated, even ones terminate."""

    def __init__(self, num_envs: int) -> None:
        self.spec = COUNTER_SPEC
        self.num_envs = num_envs

    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch:
        assert len(seeds) == self.num_envs
        self._seeds = list(seeds)
        self._total = np.zeros(self.num_envs, np.int64)
        self._count = np.zeros(self.num_envs, np.int64)
        self._episode = np.zeros(self.num_envs, np.int64)
        self._limit = np.array([episode_length(seed, 0) for seed in seeds])
        self._last = np.zeros(self.num_envs, np.bool_)
        return self._emit(np.ones(self.num_envs, np.bool_), np.zeros((self.num_envs, ACTION_SIZE), np.float32))

    def step(self, actions: NDArray[Any]) -> StepBatch:
        assert actions.shape == (self.num_envs, ACTION_SIZE)
        first = self._last
        for n in np.flatnonzero(first):
            self._episode[n] += 1
            self._limit[n] = episode_length(self._seeds[n], int(self._episode[n]))
        self._total += 1
        self._count = np.where(first, 0, self._count + 1)
        return self._emit(first, np.where(first[:, None], 0, actions).astype(np.float32))

    def origins(self) -> list[dict[str, Any]]:
        return [{"seed": seed} for seed in self._seeds]

    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch:
        """A simulator that cannot come back: it starts again."""
        return self.reset([origin["seed"] for origin in origins])

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        return np.full(IMAGE_SHAPE, self._count[index], np.uint8)

    def close(self) -> None:
        pass

    def _emit(self, first: NDArray[np.bool_], action: NDArray[np.float32]) -> StepBatch:
        self._last = self._count == self._limit
        terminal = self._last & (self._episode % 2 == 0)
        pixels = (self._total % 256).astype(np.uint8).reshape(-1, 1, 1, 1)
        return StepBatch(
            observation={
                "image": np.broadcast_to(pixels, (self.num_envs, *IMAGE_SHAPE)).copy(),
                "state": np.concatenate([self._count[:, None], self._total[:, None], action], 1, dtype=np.float32),
                "count": np.stack([self._count, self._total], 1),
            },
            reward=self._count.astype(np.float32),
            is_first=first.copy(),
            is_last=self._last.copy(),
            is_terminal=terminal,
            info={"cost": np.ones(self.num_envs, np.float32), "is_success": terminal.astype(np.float32)},
        )


class CounterEnv(gymnasium.Env[dict[str, NDArray[Any]], NDArray[np.float32]]):
    """One counting environment of Gymnasium."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's own class attribute)

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode
        box = gymnasium.spaces.Box
        self.observation_space = gymnasium.spaces.Dict(
            {
                "image": box(0, 255, IMAGE_SHAPE, np.uint8),
                "state": box(-np.inf, np.inf, (2 + ACTION_SIZE,), np.float32),
                "count": box(0, 2**62, (2,), np.int64),
            }
        )
        self.action_space = box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self._seed = 0
        self._total = self._episode = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self._total, self._episode = seed, -1, -1
        self._count = 0
        self._episode += 1
        self._total += 1
        return self._observe(np.zeros(ACTION_SIZE, np.float32)), {}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        self._count += 1
        self._total += 1
        done = self._count == episode_length(self._seed, self._episode)
        even = self._episode % 2 == 0
        return self._observe(action), float(self._count), done and even, done and not even, {"cost": 1.0}

    def render(self) -> Any:
        return np.full(IMAGE_SHAPE, self._total % 256, np.uint8)

    def _observe(self, action: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {
            "image": np.full(IMAGE_SHAPE, self._total % 256, np.uint8),
            "state": np.array([self._count, self._total, *action], np.float32),
            "count": np.array([self._count, self._total], np.int64),
        }


if GYM_ID not in gymnasium.registry:
    gymnasium.register(GYM_ID, entry_point="tests.fakes:CounterEnv", disable_env_checker=True)


class ReachEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A point on a line is put beside a target; the reward is minus the distance, 16 steps an episode."""

    def __init__(self, render_mode: str | None = None) -> None:
        box = gymnasium.spaces.Box
        self.observation_space = box(-1.0, 1.0, (2,), np.float32)  # position, target
        self.action_space = box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        self._steps = 0
        return self._state.copy(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._state[0] = action[0]
        self._steps += 1
        reward = -float(abs(self._state[0] - self._state[1]))
        return self._state.copy(), reward, False, self._steps == 16, {}


if REACH_ID not in gymnasium.registry:
    gymnasium.register(REACH_ID, entry_point="tests.fakes:ReachEnv", disable_env_checker=True)


class CheckingPolicy:
    """Acts by a function of its observation, and asserts that every row it sees follows the one before.

    The carry is the last observed step number of each row, so a wrong row of carry is found too.
    """

    def __init__(self) -> None:
        self.version = 0
        self.extras: dict[str, ArraySpec] = {}
        self.rows = 0  # rows acted on

    def initial(self, seeds: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.full((len(seeds), 1), -1, np.int64)

    def act(self, step: StepBatch, carry: NDArray[np.int64], explore: bool) -> PolicyOutput:
        count, total = step.observation["count"].T
        np.testing.assert_array_equal(total, carry[:, 0] + 1)
        np.testing.assert_array_equal(step.is_first, count == 0)
        self.rows += len(total)
        return PolicyOutput(expected_action(total), total[:, None].copy(), {"total": total.astype(np.float32)})

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        self.version = max(self.version, version)


def expected_action(total: NDArray[np.int64]) -> NDArray[np.float32]:
    """The action `CheckingPolicy` takes at step `total` of a stream."""
    return np.stack([(total % 1009) / 1009, -((total + 1) % 503) / 503], -1).astype(np.float32)


class RecurrentPolicy:
    """Acts at random; its memory tells which stream a row is of, and how many steps of it and of the episode it saw.

    The extras are a function of that memory, see `expected_extras`. The metric `memory` shows the memory of each row.

    Args:
        action: Spec of the action.
    """

    def __init__(self, action: ArraySpec) -> None:
        self.version = 0
        self.extras = {"latent_deter": ArraySpec((2,), "float16"), "latent_stoch": ArraySpec((3,), "uint8")}
        self._random = RandomPolicy(action)

    def initial(self, seeds: NDArray[np.uint64]) -> dict[str, Any]:
        none = np.full(len(seeds), -1, np.int64)
        return {"seed": seeds.copy(), "random": self._random.initial(seeds), "seen": {"stream": none, "episode": none}}

    def act(self, step: StepBatch, carry: dict[str, Any], explore: bool) -> PolicyOutput:
        drawn = self._random.act(step, carry["random"], explore)
        total = carry["seen"]["stream"] + 1
        count = np.where(step.is_first, 0, carry["seen"]["episode"] + 1)
        following = {**carry, "random": drawn.carry, "seen": {"stream": total, "episode": count}}
        return PolicyOutput(
            drawn.action,
            following,
            {"memory": (carry["seed"] % 251 + total).astype(np.float32)},
            expected_extras(carry["seed"], total, count),
        )

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        self.version = max(self.version, version)


def expected_extras(seed: NDArray[Any], total: NDArray[Any], count: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What `RecurrentPolicy` says of rows [...] of these seeds, stream steps and episode steps."""
    stoch = (seed % 251)[..., None].astype(np.int64) + 7 * total[..., None] + np.arange(3)
    return {
        "latent_deter": np.stack([total % 1024, count], -1).astype(np.float16),
        "latent_stoch": (stoch % 251).astype(np.uint8),
    }


def check_extras(batch: SequenceBatch, seed: int, num_envs: int) -> None:
    """Assert that the extras of every step of `RecurrentPolicy` are those of its stream and step.

    Args:
        batch: Sequences that start with their stream, or of an environment that counts its steps itself.
        seed: Seed of the rollout loops.
        num_envs: Environments of each.
    """
    rows = []
    for stream_id in batch.stream_id.tolist():
        actor, incarnation, env = unpack_stream_id(stream_id)
        states = np.random.SeedSequence([seed, actor, incarnation]).generate_state(2 * num_envs, np.uint64)
        rows.append(states[num_envs + env])
    total = batch.first_step[:, None] + np.arange(batch.shape[1])
    if "count" in batch.data:
        count = batch.data["count"][..., 0]
    else:
        assert not batch.first_step.any()
        count = total - np.maximum.accumulate(np.where(batch.data["is_first"], total, 0), axis=1)
    seeds = np.broadcast_to(np.array(rows, np.uint64)[:, None], total.shape)
    for key, value in expected_extras(seeds, total, count).items():
        np.testing.assert_array_equal(batch.data[key], value, err_msg=key)


def check_sequences(batch: SequenceBatch) -> None:
    """Assert that every sequence is a run of consecutive, correctly aligned steps of the counter."""
    data = batch.data
    count, total = np.moveaxis(data["count"], -1, 0)
    first, last = data["is_first"], data["is_last"]
    # The stream's index is the environment's own step number: nothing was lost or doubled before either.
    np.testing.assert_array_equal(total, batch.first_step[:, None] + np.arange(batch.shape[1]))
    np.testing.assert_array_equal(
        data["image"], np.broadcast_to((total % 256)[..., None, None, None], data["image"].shape)
    )
    np.testing.assert_array_equal(data["state"][..., 0], count)
    np.testing.assert_array_equal(data["state"][..., 1], total)
    np.testing.assert_array_equal(data["reward"], count)
    np.testing.assert_array_equal(first, count == 0)
    assert not (data["is_terminal"] & ~last).any()
    np.testing.assert_array_equal(data["is_terminal"][last], data["episode"][last] % 2 == 0)
    assert not data["action"][last].any()
    assert not data["state"][first][:, 2:].any()
    # Step t + 1 against step t.
    np.testing.assert_array_equal(first[:, 1:], last[:, :-1])
    np.testing.assert_array_equal(count[:, 1:], np.where(first[:, 1:], 0, count[:, :-1] + 1))
    np.testing.assert_array_equal(np.diff(data["episode"], axis=1), first[:, 1:])
    echo = np.where(last[:, :-1, None], 0, data["action"][:, :-1])
    np.testing.assert_array_equal(data["state"][:, 1:, 2:], echo)


def counter_blocks(stream_id: int, num_blocks: int, steps: int = 64) -> list[Any]:
    """Blocks of one counter stream."""
    from actors.rollout import RolloutConfig, RolloutLoop

    loop = RolloutLoop(CounterVectorEnv(1), CheckingPolicy(), seed=stream_id, config=RolloutConfig(block_steps=steps))
    blocks = loop.collect(num_blocks * steps).blocks
    return [type(b)(stream_id, b.first_step, b.policy_version, b.data) for b in blocks]
