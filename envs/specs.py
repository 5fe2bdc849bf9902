"""The vocabulary every package shares: array specs, environment specs and time steps.

Alignment (stated once, here): step t holds `observation_t`, `reward_t` (received on arriving at
observation_t), `is_first`, `is_last` (terminated or truncated) and `is_terminal` (terminated).
The action stored with step t is the one taken *after* seeing observation_t, so a transition is
(observation_t, action_t, reward_{t+1}, observation_{t+1}). The action of a step with `is_last`
is ignored by the environment: the next step is the `is_first` of a new episode, with reward 0.

Letters: N environments of a vector, D features, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from envs.faults import Fault

RESERVED_KEYS = frozenset({"action", "reward", "is_first", "is_last", "is_terminal", "episode"})
"""Names of stored step fields that no observation may use."""
RESERVED_METRICS = frozenset(
    {"episodes", "episode_return", "episode_length", "success_rate", "policy_version", "policy_lag", "return_mean"}
    | {"length_mean", "cut", "faults"}
)
"""Names of metrics of rollouts and evaluations that no environment may use."""

ACTION_LIMIT = float(np.finfo(np.float32).max) / 4
"""Largest magnitude of an action's bounds: sums and differences of two such numbers are finite in float32."""

MetricKind = Literal["last", "sum", "mean"]
"""How the values of a metric in the steps after an episode's first one become one of the episode."""


@dataclass(frozen=True)
class ArraySpec:
    """Shape, dtype and bounds of one array.

    Args:
        shape: Shape of a single step, without batch axes.
        dtype: NumPy dtype name, e.g. "float32", "uint8", "int64".
        low: Lower bound, a scalar or one value per element (row-major); of a discrete action, the environment's first
            id.
        high: Upper bound, like `low`.
        num_values: For discrete ids in [0, num_values), else None.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float | tuple[float, ...] = -np.inf
    high: float | tuple[float, ...] = np.inf
    num_values: int | None = None

    @property
    def size(self) -> int:
        """Number of elements of one step."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_discrete(self) -> bool:
        return self.num_values is not None

    def bounds(self, dtype: DTypeLike = np.float32) -> tuple[NDArray[Any], NDArray[Any]]:
        """Lower and upper bounds as arrays of `shape`."""
        low, high = (
            np.broadcast_to(np.asarray(b, dtype).reshape(self.shape if np.size(b) > 1 else ()), self.shape)
            for b in (self.low, self.high)
        )
        return low, high

    def box(self, what: str = "the action") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bounds [A] of a continuous action as policies take them: flat, float32, and inside the true ones.

        A dimension without a second float32 between its bounds is fixed: both are the same, the nearest number.

        Args:
            what: The action, for errors.

        Raises:
            ValueError: The action is discrete, unbounded or empty, or its range is too wide for float32.
        """
        if self.is_discrete:
            raise ValueError(f"{what} must be a box, not one of {self.num_values} discrete ids")
        exact_low, exact_high = (bound.reshape(-1) for bound in self.bounds(np.float64))
        for index, (lowest, highest) in enumerate(zip(exact_low.tolist(), exact_high.tolist(), strict=True)):
            bounds = f"dimension {index} of {what} is in [{lowest:g}, {highest:g}]"
            if not (np.isfinite(lowest) and np.isfinite(highest)):
                raise ValueError(f"{bounds}: it must be bounded (gymnasium.wrappers.RescaleAction, or finite bounds)")
            if lowest > highest:
                raise ValueError(f"{bounds}: it is empty")
            if max(abs(lowest), abs(highest)) > ACTION_LIMIT:
                raise ValueError(f"{bounds}: its range overflows float32, bounds must be within {ACTION_LIMIT:.3g}")
        low, high = exact_low.astype(np.float32), exact_high.astype(np.float32)
        low = np.where(low < exact_low, np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(high > exact_high, np.nextafter(high, np.float32(-np.inf)), high)
        middle = (0.5 * (exact_low + exact_high)).astype(np.float32)
        fixed = low >= high
        return np.where(fixed, middle, low), np.where(fixed, middle, high)


@dataclass(frozen=True)
class EnvSpec:
    """What a model or an actor needs to know about an environment.

    Args:
        name: Name that `envs.registry.make_env` takes.
        observation: Spec of every observation key.
        action: Spec of the action.
        max_episode_steps: Steps after which an episode is truncated, None if unbounded.
        step_seconds: Simulated seconds per step, None where time has no unit.
        metrics: What the environment reports of a step beside its reward, each one float32 number in its info (0 where
            info lacks it), and how it adds up over an episode. `is_success` is 1 once the goal is reached.
    """

    name: str
    observation: Mapping[str, ArraySpec]
    action: ArraySpec
    max_episode_steps: int | None = None
    step_seconds: float | None = None
    metrics: Mapping[str, MetricKind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clash = RESERVED_KEYS.intersection(self.observation)
        if clash:
            raise ValueError(f"observation keys {sorted(clash)} of {self.name} are reserved")
        for metric in self.metrics:
            if metric in RESERVED_METRICS or not metric.replace(".", "_").isidentifier():
                raise ValueError(
                    f"metric {metric!r} of {self.name} needs another name: it is reserved, or no plain word"
                )
        for metric, kind in self.metrics.items():
            if kind not in get_args(MetricKind):
                raise ValueError(
                    f"metric {metric!r} of {self.name} must be one of {', '.join(get_args(MetricKind))}, got {kind!r}"
                )


@dataclass(frozen=True)
class TimeStep:
    """One step of one environment."""

    observation: dict[str, NDArray[Any]]  # key -> spec.observation[key].shape
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepBatch:
    """One step of N environments. The arrays are the receiver's own: the next step never overwrites them."""

    observation: dict[str, NDArray[Any]]  # key -> [N, ...]
    reward: NDArray[np.float32]  # [N]
    is_first: NDArray[np.bool_]  # [N]
    is_last: NDArray[np.bool_]  # [N]
    is_terminal: NDArray[np.bool_]  # [N]
    info: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # spec.metrics -> [N]

    def take(self, index: NDArray[Any]) -> StepBatch:
        """The rows `index` (ids or a boolean mask) as a new batch."""
        return StepBatch(
            {k: v[index] for k, v in self.observation.items()},
            self.reward[index],
            self.is_first[index],
            self.is_last[index],
            self.is_terminal[index],
            {k: v[index] for k, v in self.info.items()},
        )


class Env(Protocol):
    """A single environment.

    `origin` is what the present episode was made from, plain values; `redo` makes the same episode again, in any
    instance, if all that is random in the simulator comes from there.
    """

    spec: EnvSpec

    @property
    def origin(self) -> dict[str, Any]: ...
    def redo(self, origin: Mapping[str, Any]) -> TimeStep: ...
    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> TimeStep: ...
    def step(self, action: NDArray[Any]) -> TimeStep: ...
    def render(self) -> NDArray[np.uint8]: ...  # [height, width, 3]
    def close(self) -> None: ...


class VectorEnv(Protocol):
    """N environments stepped together.

    After a step with `is_last`, the next call of `step` ignores that environment's action, resets it
    and returns its `is_first` step: the true last observation is always seen and stored.

    An environment that fails in a reset or step is made again with a seed of its own: its row is then the `is_first`
    step of a new instance, whatever came before, its count in `remakes` is higher, and `take_faults` tells of it. A row
    whose process is lost with another row's is made again too, without a fault of its own.

    Raises:
        SimulatorError: From `reset` and `step`, if an environment fails however often it is made again.
        ContractError: From both, if an environment returns what its spec rules out.
    """

    spec: EnvSpec
    num_envs: int

    @property
    def remakes(self) -> Sequence[int]: ...  # [N] how often each was made again since `reset`, or as `origins` say
    def take_faults(self) -> list[Fault]: ...  # those since the last call
    def reset(self, seeds: Sequence[int], options: Mapping[str, Any] | None = None) -> StepBatch: ...
    def origins(self) -> list[dict[str, Any]]: ...  # of the present episodes, see Env
    def redo(self, origins: Sequence[Mapping[str, Any]], actions: Sequence[NDArray[Any]]) -> StepBatch: ...
    def step(self, actions: NDArray[Any]) -> StepBatch: ...
    def render(self, index: int = 0) -> NDArray[np.uint8]: ...
    def close(self) -> None: ...
