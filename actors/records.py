"""Records that cross the boundaries between actors.

Letters: N environments, T steps, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.specs import ArraySpec, StepBatch


@dataclass(frozen=True)
class Block:
    """Consecutive steps of one stream (one environment instance of one actor incarnation)."""

    stream_id: int  # unique over the run: actor index, incarnation and environment index
    first_step: int  # index within the stream of data[...][0]
    policy_version: int  # weights version that chose the first action
    # observation keys, action, reward, is_first, is_last, is_terminal, episode, the policy's extras: [T, ...]
    data: dict[str, NDArray[Any]]
    priority: NDArray[np.float32] | None = None  # [T] replay priority of the sequence that begins at each step

    @property
    def num_steps(self) -> int:
        return len(self.data["reward"])


@dataclass(frozen=True)
class Episode:
    """Summary of one finished episode."""

    episode_return: float
    length: int
    policy_version: int
    metrics: dict[str, float]  # EnvSpec.metrics, added up as declared
    cut: bool = False  # ended by the limit of an evaluation, not by the environment
    faults: int = 0  # of the simulator, by which the episode ended
    jerk: float | None = None  # of its actions, see actors.jerk; None of ids and where it is not measured


@dataclass(frozen=True)
class PolicyOutput:
    """What a policy says about one step of N environments."""

    action: NDArray[Any]  # [N, A] float32 inside the box, or [N] int64
    carry: Any  # the policy's memory, row n belongs to environment n
    metrics: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # name -> [N]
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)  # Policy.extras -> [N, ...] to store with the step
    priority: NDArray[np.float32] | None = None  # [N] replay priority of the sequence that begins here; always or never


class Policy(Protocol):
    """Chooses actions; the same object serves rollout, evaluation and inference."""

    version: int

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """What every output brings to be stored with its step, beside the action; {} if nothing."""
        ...

    def initial(self, seeds: NDArray[np.uint64]) -> Any:
        """The carry of len(seeds) environments; each row draws its randomness from its own seed."""
        ...

    def act(self, step: StepBatch, carry: Any, explore: bool) -> PolicyOutput:
        """Act; rows with `step.is_first` start an episode and clear their memory."""
        ...

    def update(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Replace the weights if `version` is newer."""
        ...
