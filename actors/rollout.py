"""Vectorised rollout: environments and a policy in, blocks of stored steps out; no transport.

One tick acts in all N environments and stores one step of each: observation_t, reward_t and the flags of the
step at hand, with the action that is taken after it and the policy's extras. Steps are written into arrays
[N, T, ...], so a block of one environment is a contiguous view and costs nothing.

A simulator that fails ends its stream: the steps before the failing one are a block of their own, and its row goes on
as a new stream, whose number of the environment is row + N * how often the row was made again.

Letters: N environments, T steps per block, A action size.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from actors.carry import leaves, put_rows, with_leaves
from actors.episode_metrics import EpisodeMetrics
from actors.records import Block, Episode, Policy, PolicyOutput
from envs.faults import Fault
from envs.numbers import check_fields
from envs.specs import RESERVED_KEYS, ArraySpec, EnvSpec, StepBatch, VectorEnv

MIN_BLOCK_STEPS = 64  # shorter blocks make the cost of a call dominate
_BOOKS = ("episode", "return", "episode_steps", "episode_version")  # per environment
_ACTOR_BITS, _INCARNATION_BITS, _ENV_BITS = 20, 23, 20


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is collected.

    Args:
        block_steps: Steps of one block of one environment.
        repeatable: Whether an episode can be played again; if not, a loop that continues opens new streams.
    """

    block_steps: Annotated[int, Ge(MIN_BLOCK_STEPS)] = MIN_BLOCK_STEPS
    repeatable: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RolloutResult:
    """What one call of `RolloutLoop.collect` produced."""

    blocks: list[Block]  # the blocks completed by this call
    episodes: list[Episode]  # the episodes that ended in this call
    steps: int  # steps taken; those not in a completed block yet come with a later call
    metrics: dict[str, float] = field(default_factory=dict)  # means of the policy's metrics
    env_seconds: float = 0.0
    policy_seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)  # of simulators; their steps are in no block
    ticks: int = 0  # steps of every environment


def pack_stream_id(actor: int, incarnation: int, env: int) -> int:
    """A stream id of 63 bits: actor (20), incarnation (23), environment (20).

    Raises:
        ValueError: An index does not fit.
    """
    for name, value, bits in (
        ("actor", actor, _ACTOR_BITS),
        ("incarnation", incarnation, _INCARNATION_BITS),
        ("env", env, _ENV_BITS),
    ):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} index {value} does not fit {bits} bits")
    return (actor << _INCARNATION_BITS | incarnation) << _ENV_BITS | env


def unpack_stream_id(stream_id: int) -> tuple[int, int, int]:
    """(actor, incarnation, env) of a stream id."""
    rest, env = divmod(stream_id, 1 << _ENV_BITS)
    actor, incarnation = divmod(rest, 1 << _INCARNATION_BITS)
    return actor, incarnation, env


def next_incarnation(stream_ids: Iterable[int]) -> int:
    """The first incarnation that none of the streams has."""
    return 1 + max((unpack_stream_id(stream_id)[1] for stream_id in stream_ids), default=-1)


class RolloutLoop:
    """Runs a policy in a vector of environments; streams go on between calls of `collect`.

    Args:
        env: The environments.
        policy: Chooses the actions.
        seed: Root of the seeds of the environments and of the policy's rows.
        actor: Index of the actor that owns the loop.
        incarnation: How often that actor was started before; a new one opens new streams and new seeds.
        config: Block size.

    Raises:
        ValueError: The policy's extras have names that are taken.
    """

    def __init__(
        self,
        env: VectorEnv,
        policy: Policy,
        seed: int,
        actor: int = 0,
        incarnation: int = 0,
        config: RolloutConfig | None = None,
    ) -> None:
        clash = policy.extras.keys() & (RESERVED_KEYS | env.spec.observation.keys())
        if clash:
            raise ValueError(f"the policy's extras {sorted(clash)} have names of stored keys of {env.spec.name}")
        self.env = env
        self.policy = policy
        self._seed = seed
        self._actor = actor
        self._config = config or RolloutConfig()
        self._length = self._config.block_steps
        self._buffers: dict[str, NDArray[Any]] = {}
        self._priority: NDArray[np.float32] | None = None  # [N, T] if the policy gives priorities
        self._opened: list[int] = []  # environments whose stream begins with the next row
        self._blocks: list[Block] = []  # not handed over yet
        self._faults: list[Fault] = []  # that no result has told yet
        self.restart(incarnation)

    @property
    def incarnation(self) -> int:
        return self._incarnation

    def restart(self, incarnation: int) -> None:
        """Drop what is not in a block yet, reset the environments and open the streams of `incarnation`."""
        num_envs = self.env.num_envs
        self._incarnation = incarnation
        seeds = np.random.SeedSequence([self._seed, self._actor, incarnation])
        env_seeds, policy_seeds = seeds.generate_state(2 * num_envs, np.uint64).astype(np.uint64).reshape(2, num_envs)
        self._carry = self.policy.initial(policy_seeds)
        self._step = self.env.reset([int(s >> np.uint64(33)) for s in env_seeds])
        self._faults += self.env.take_faults()
        self._remakes = list(self.env.remakes)
        self._streams = [self._stream(n) for n in range(num_envs)]
        self._first_steps = [0] * num_envs  # stream index of the first row of each stream's next block
        self._begins = [0] * num_envs  # that row in the buffers
        self._filled = 0  # rows written
        self._block_versions = [self.policy.version] * num_envs
        self._opened, self._blocks = [], []
        self._buffers, self._priority = {}, None
        self._broken = False  # a simulator cannot be made again
        for n in np.flatnonzero(self._remakes).tolist():
            self._renew_carry(n)
        self._episode = np.full(num_envs, -1, np.int64)
        self._return = np.zeros(num_envs, np.float64)
        self._episode_steps = np.zeros(num_envs, np.int64)
        self._metrics = EpisodeMetrics(self.env.spec.metrics, num_envs)
        self._episode_version = np.zeros(num_envs, np.int64)
        self._actions = _ActionHistory(num_envs, self.env.spec.action)

    def state_dict(self) -> dict[str, Any]:
        """Everything the loop depends on but the policy's weights, as plain values and arrays.

        A simulator's state is what its episode was made from and the actions since.
        """
        return {
            "incarnation": self._incarnation,
            "carry": leaves(self._carry),
            "origins": self.env.origins(),
            "actions": self._actions.of_episodes(),
            "observation": {key: value.copy() for key, value in self._step.observation.items()},
            "is_first": self._step.is_first.copy(),
            "buffers": {key: buffer[:, : self._filled].copy() for key, buffer in self._buffers.items()},
            "priority": None if self._priority is None else self._priority[:, : self._filled].copy(),
            "rows": [self._first_steps, self._filled, self._block_versions],
            "begins": list(self._begins),
            "remakes": list(self._remakes),
            "broken": self._broken,
            "books": {name: getattr(self, f"_{name}").copy() for name in _BOOKS},
            "metrics": {name: sums.copy() for name, sums in self._metrics.sums.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue from a `state_dict`.

        Returns:
            Whether the simulators came back to the same observations; if not, call `restart` with a new incarnation.
            Those that cannot are not asked to.

        Raises:
            ValueError: The state is of another number of environments or of another policy.
        """
        if not self._config.repeatable or state.get("broken", False):
            return False
        self.restart(int(state["incarnation"]))
        self._carry = with_leaves(self._carry, state["carry"])
        try:
            step = self.env.redo(state["origins"], state["actions"])
        except ValueError:  # the episode ended before the last action: not the same simulator
            return False
        saved = state["observation"]
        if not all(np.array_equal(step.observation[key], saved[key], equal_nan=True) for key in saved):
            return False
        self._actions.load(state["actions"])
        self._step = replace(step, is_first=np.array(state["is_first"]))
        first_steps, self._filled, versions = state["rows"]
        num_envs = self.env.num_envs
        self._first_steps = [first_steps] * num_envs if isinstance(first_steps, int) else list(first_steps)
        self._block_versions = [versions] * num_envs if isinstance(versions, int) else list(versions)
        self._begins = list(state.get("begins", [0] * num_envs))  # a checkpoint of an earlier version has none
        self._remakes = list(state.get("remakes", [0] * num_envs))
        self._streams = [self._stream(n) for n in range(num_envs)]
        self._opened = [n for n in range(num_envs) if 0 < self._begins[n] == self._filled]
        self._faults = []  # that the reset above repeated
        if self._filled:
            self._buffers = self._allocate(step)
            for key, buffer in self._buffers.items():
                buffer[:, : self._filled] = state["buffers"][key]
            if state.get("priority") is not None:
                self._priority = np.empty((self.env.num_envs, self._length), np.float32)
                self._priority[:, : self._filled] = state["priority"]
        for name in _BOOKS:
            setattr(self, f"_{name}", np.array(state["books"][name]))
        self._metrics.sums = {name: np.array(state["metrics"][name]) for name in self._metrics.sums}
        return True

    def collect(self, num_ticks: int, stopping: Callable[[], bool] = lambda: False) -> RolloutResult:
        """Take `num_ticks` steps in every environment.

        Args:
            num_ticks: Steps per environment.
            stopping: Asked before every tick; the call ends early when it says so.

        Raises:
            ValueError: `num_ticks` is not positive.
            SimulatorError: An environment fails however often it is made again; `flush` has the steps before, and
                `restart` may follow.
        """
        if num_ticks < 1:
            raise ValueError(f"num_ticks must be at least 1, got {num_ticks}")
        episodes: list[Episode] = []
        sums: defaultdict[str, float] = defaultdict(float)
        env_seconds = policy_seconds = 0.0
        ticks = 0
        while ticks < num_ticks and not stopping():
            ticks += 1
            step = self._step
            start = perf_counter()
            output = self.policy.act(step, self._carry, True)
            acted = perf_counter()
            policy_seconds += acted - start
            self._carry = output.carry
            for name, value in output.metrics.items():
                sums[name] += float(value.mean())
            self._write(step, output)
            self._track(step, episodes)
            if self._filled == self._length:
                self._blocks += self._take_blocks()
            start = perf_counter()
            self._broken = True  # unless the step comes
            self._step = self.env.step(output.action)
            self._broken = False
            env_seconds += perf_counter() - start
            self._actions.took(output.action, self._step.is_first)
            if failed := self.env.take_faults():
                self._faults += failed
                self._blocks += self._open_streams()
        means = {name: value / ticks for name, value in sums.items()}
        steps = ticks * self.env.num_envs
        blocks, self._blocks = self._blocks, []
        faults, self._faults = self._faults, []
        return RolloutResult(blocks, episodes, steps, means, env_seconds, policy_seconds, faults, ticks)

    def flush(self) -> list[Block]:
        """The steps that fill no block yet, as shorter blocks; the streams go on behind them."""
        blocks, self._blocks = self._blocks + self._take_blocks(), []
        return blocks

    def _write(self, step: StepBatch, output: PolicyOutput) -> None:
        row = self._filled
        if not self._buffers:
            self._buffers = self._allocate(step)
        if row == 0:
            self._block_versions = [self.policy.version] * self.env.num_envs
        for n in self._opened:
            self._block_versions[n] = self.policy.version
        self._opened = []
        buffers = self._buffers
        for key, value in step.observation.items():
            buffers[key][:, row] = value
        assert output.extras.keys() == self.policy.extras.keys()
        for key, value in output.extras.items():
            buffers[key][:, row] = value
        if output.priority is not None:
            if self._priority is None:
                self._priority = np.empty((self.env.num_envs, self._length), np.float32)
            self._priority[:, row] = output.priority
        buffers["action"][:, row] = output.action
        buffers["reward"][:, row] = step.reward
        buffers["is_first"][:, row] = step.is_first
        buffers["is_last"][:, row] = step.is_last
        buffers["is_terminal"][:, row] = step.is_terminal
        if step.is_last.any():
            buffers["action"][step.is_last, row] = 0
        self._episode += step.is_first
        buffers["episode"][:, row] = self._episode
        self._filled = row + 1

    def _track(self, step: StepBatch, episodes: list[Episode]) -> None:
        """Add up returns and metrics, and report the episodes that end with this step."""
        if step.is_first.any():
            first = step.is_first
            self._return[first] = 0.0
            self._episode_steps[first] = 0
            self._episode_version[first] = self.policy.version
        self._return += step.reward
        self._episode_steps += 1
        self._metrics.add(step)
        if not step.is_last.any():
            return
        for n in np.flatnonzero(step.is_last):
            # An episode of T actions has T + 1 steps.
            length = int(self._episode_steps[n]) - 1
            metrics = self._metrics.episode(int(n), step, int(n), length)
            episodes.append(Episode(float(self._return[n]), length, int(self._episode_version[n]), metrics))

    def _take_blocks(self) -> list[Block]:
        """Hand the buffers over as one block per environment; new buffers come with the next step."""
        blocks = [block for n in range(self.env.num_envs) for block in self._take_block(n)]
        self._begins = [0] * self.env.num_envs
        self._filled = 0
        self._buffers, self._priority = {}, None
        return blocks

    def _take_block(self, n: int) -> list[Block]:
        """What is in the buffers of the present stream of environment `n`, if anything."""
        rows = slice(self._begins[n], self._filled)
        if rows.start == rows.stop:
            return []
        block = Block(
            self._streams[n],
            self._first_steps[n],
            self._block_versions[n],
            {key: buffer[n, rows] for key, buffer in self._buffers.items()},
            None if self._priority is None else self._priority[n, rows],
        )
        self._first_steps[n] += rows.stop - rows.start
        self._begins[n] = self._filled
        return [block]

    def _open_streams(self) -> list[Block]:
        """End the streams of the environments that were made again, and open others; their last blocks."""
        blocks: list[Block] = []
        remakes = self.env.remakes
        for n in range(self.env.num_envs):
            if remakes[n] == self._remakes[n]:
                continue
            blocks += self._take_block(n)
            self._remakes[n] = remakes[n]
            self._streams[n] = self._stream(n)
            self._first_steps[n] = 0
            self._episode[n] = -1
            self._opened.append(n)
            self._renew_carry(n)
        return blocks

    def _stream(self, n: int) -> int:
        """Id of the present stream of environment `n`."""
        return pack_stream_id(self._actor, self._incarnation, n + self.env.num_envs * self._remakes[n])

    def _renew_carry(self, n: int) -> None:
        """Give the policy a memory of its own for the present stream of environment `n`."""
        number = n + self.env.num_envs * self._remakes[n]
        seed = np.random.SeedSequence([self._seed, self._actor, self._incarnation, number]).generate_state(1, np.uint64)
        self._carry = put_rows(self._carry, slice(n, n + 1), self.policy.initial(seed.astype(np.uint64)))

    def _allocate(self, step: StepBatch) -> dict[str, NDArray[Any]]:
        shape = (self.env.num_envs, self._length)
        assert self.env.spec.observation.keys() == step.observation.keys()
        stored = stored_arrays(self.env.spec, self.policy.extras)
        return {key: np.empty((*shape, *spec.shape), spec.dtype) for key, spec in stored.items()}


def stored_arrays(env: EnvSpec, extras: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    """What a block holds of every step; `extras` are the policy's."""
    flag = ArraySpec((), "bool")
    books = {"reward": ArraySpec((), "float32"), "is_first": flag, "is_last": flag, "is_terminal": flag}
    return {**env.observation, **extras, "action": env.action, **books, "episode": ArraySpec((), "int64")}


class _ActionHistory:
    """The actions of the episodes that are going on.

    Args:
        num_envs: Environments, N.
        action: Spec of an action.
    """

    def __init__(self, num_envs: int, action: ArraySpec) -> None:
        self._shape, self._dtype = (num_envs, *action.shape), action.dtype
        self._ticks: deque[NDArray[Any]] = deque()  # [N, ...] each, oldest first
        self._lengths = np.zeros(num_envs, np.int64)  # newest ticks that belong to the present episode

    def took(self, actions: NDArray[Any], is_first: NDArray[np.bool_]) -> None:
        """Note the actions [N, ...] of one tick; one that was answered by a first step belongs to no episode."""
        self._ticks.append(actions)
        self._lengths = np.where(is_first, 0, self._lengths + 1)
        while len(self._ticks) > self._lengths.max():
            self._ticks.popleft()

    def of_episodes(self) -> list[NDArray[Any]]:
        """Actions [T, ...] of each environment's present episode."""
        ticks = np.array(self._ticks, self._dtype).reshape(-1, *self._shape)
        return [ticks[len(ticks) - length :, n].copy() for n, length in enumerate(self._lengths.tolist())]

    def load(self, actions: Sequence[NDArray[Any]]) -> None:
        """Take over what `of_episodes` said."""
        self._lengths = np.array([len(taken) for taken in actions])
        ticks = np.zeros((int(self._lengths.max()), *self._shape), self._dtype)
        for n, taken in enumerate(actions):
            ticks[len(ticks) - len(taken) :, n] = taken
        self._ticks = deque(ticks)
