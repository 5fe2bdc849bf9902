"""Self-checking consumers of the counter (`envs.testing.counter`).

`check_sequences` finds any step that was lost, doubled, reordered or paired with another step's action on the way to
the learner. `RecurrentPolicy` marks the steps of any environment in the same way, by its extras, and `check_extras`
reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.random_policy import RandomPolicy
from actors.records import PolicyOutput
from actors.rollout import unpack_stream_id
from envs.specs import ArraySpec, StepBatch
from envs.testing.counter import CounterVectorEnv
from learner.batch import SequenceBatch


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
