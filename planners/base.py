"""Records and protocols of planning.

Letters: B planning problems (environments), N candidates, H horizon, A action size,
P particles per candidate, S state size, E kept elites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Objective = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Particle returns [..., P] -> scores [...]; higher is better. Risk measures are such functions."""


@dataclass(frozen=True)
class PlannerCarry:
    """What a planner remembers between the steps of an episode; owned by the caller, row b is problem b.

    Planners hold no episode state, so any planner process can serve any problem in any batch and
    the plan of a problem does not depend on what it is batched with.
    """

    mean: NDArray[np.float32]  # [B, H, A] mean actions of the last plan, already shifted by one step
    elites: NDArray[np.float32]  # [B, E, H, A] elites kept for the next plan, already shifted; E may be 0
    has_elites: NDArray[np.bool_]  # [B]
    seed: NDArray[np.uint64]  # [B] root of the problem's random numbers
    step: NDArray[np.int64]  # [B] plans made so far with this seed


@dataclass(frozen=True)
class Plan:
    """The result of planning B problems."""

    action: NDArray[np.float32]  # [B, A] to execute now, inside the box
    actions: NDArray[np.float32]  # [B, H, A] the whole planned sequence
    return_mean: NDArray[np.float32]  # [B] mean over particles of the plan's predicted return
    return_variance: NDArray[np.float32]  # [B] variance over particles of the same


class Evaluator(Protocol):
    """Scores action sequences under a model: what a planner is given instead of a model."""

    def __call__(
        self,
        observation: NDArray[np.float32],  # [B, S]
        actions: NDArray[np.float32],  # [B, N, H, A]
        seeds: NDArray[np.uint64],  # [B] seeds of the particles' noise
    ) -> NDArray[np.float32]:  # [B, N, P] particle returns
        ...


class PlanningModel(Protocol):
    """A world model that steps a batch of latent states; planners.scoring turns it into an Evaluator."""

    num_particles: int

    def initial(self, observation: Any, num_candidates: int) -> Any:
        """Latents of B problems x num_candidates x num_particles rows."""
        ...

    def step(self, latent: Any, action: Any) -> tuple[Any, Any, Any]:
        """(next latent, reward [rows], continuation probability [rows])."""
        ...

    def value(self, latent: Any) -> Any:
        """Return expected beyond the horizon [rows], or 0."""
        ...


@dataclass(frozen=True)
class Expansion:
    """What a model says of B states that a tree search expands, as torch tensors."""

    logits: Any  # [B, N] of the prior over the state's actions
    value: Any  # [B]
    actions: Any  # [B, N, A]


class TreeModel(Protocol):
    """A world model as a tree search sees it. Its latents are named tuples of tensors [B, ...]."""

    num_actions: int  # N of every state
    num_draws: int  # random numbers that a state takes, for the step to it and its actions

    def step(self, latent: Any, action: Any, noise: Any) -> tuple[Any, Any, Any]:
        """(next latent, reward [B], continuation probability [B]) of actions [B, A]; noise [B, draws] in [0, 1)."""
        ...

    def expand(self, latent: Any, noise: Any) -> Expansion:
        """Prior, value and actions of the states; the same noise as for the step to them."""
        ...


class Planner(Protocol):
    """Plans actions for B problems at once."""

    def initial(self, seeds: NDArray[np.uint64]) -> PlannerCarry: ...

    def plan(
        self,
        observation: Any,  # [B, S], or the latent states of B problems
        carry: PlannerCarry,
        is_first: NDArray[np.bool_],  # [B] rows whose warm start is cleared before planning
    ) -> tuple[Plan, PlannerCarry]: ...


Record = TypeVar("Record", PlannerCarry, Plan)


def take_rows(record: Record, index: slice | NDArray[Any]) -> Record:
    """The problems `index` of a carry or a plan."""
    return type(record)(**{f.name: getattr(record, f.name)[index] for f in fields(record)})


def concatenate_rows(records: Sequence[Record]) -> Record:
    """The problems of all `records`, in order; at least one record."""
    return type(records[0])(
        **{f.name: np.concatenate([getattr(record, f.name) for record in records]) for f in fields(records[0])}
    )
