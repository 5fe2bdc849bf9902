"""Records and protocols of planning.

Letters: B planning problems (environments), N candidates or actions of a root, H horizon, A action size,
P particles per candidate, S state size, E kept elites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from planners.config import MctsConfig, SequenceConfig

Objective = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Particle returns [..., P] -> scores [...]; higher is better. Risk measures are such functions."""


@dataclass(frozen=True)
class Plan:
    """The result of planning B problems, whatever the planner."""

    action: NDArray[np.float32]  # [B, A] to execute now, inside the box
    return_mean: NDArray[np.float32]  # [B] predicted return of the plan
    return_variance: NDArray[np.float32]  # [B]

    def metrics(self) -> dict[str, NDArray[np.float32]]:
        """What is worth logging, name -> [B]."""
        return {"return_mean": self.return_mean, "return_variance": self.return_variance}


@dataclass(frozen=True)
class SequencePlan(Plan):
    """A plan that is a sequence of actions; mean and variance of its return are over the particles."""

    actions: NDArray[np.float32]  # [B, H, A] the whole planned sequence
    details: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # [B] each, of constraints and guards

    def metrics(self) -> dict[str, NDArray[np.float32]]:
        """The return's mean and variance, and the details."""
        return super().metrics() | self.details


@dataclass(frozen=True)
class TreePlan(Plan):
    """What a tree search found at its roots: also what a policy and a critic learn from.

    The predicted return is the root's value; its variance that of the values of the root's actions over the visits.
    """

    actions: NDArray[np.float32]  # [B, N, A] the actions searched at the root; ids as one-hot vectors
    ids: NDArray[np.int64]  # [B, N] their ids, or their places among a box's samples; -1 where there is none
    weights: NDArray[np.float32]  # [B, N] the improved policy over them; shares of the visits for puct
    visits: NDArray[np.int32]  # [B, N]
    q: NDArray[np.float32]  # [B, N] reward and discounted value of each, NaN where not visited
    depth: NDArray[np.int32]  # [B] actions from the root to the deepest leaf

    @property
    def value(self) -> NDArray[np.float32]:
        """[B] mean value of the root."""
        return self.return_mean

    def metrics(self) -> dict[str, NDArray[np.float32]]:
        """The value, its variance, the depth of the tree and the entropy of the improved policy in nats."""
        logs = np.log(self.weights, out=np.zeros_like(self.weights), where=self.weights > 0.0)
        entropy = -(self.weights * logs).sum(axis=-1)
        return super().metrics() | {"tree_depth": self.depth.astype(np.float32), "policy_entropy": entropy}


class Evaluator(Protocol):
    """Scores action sequences under a model: what a planner is given instead of a model."""

    def __call__(
        self,
        observation: Any,  # [B, S], or the latent states of B problems
        actions: NDArray[np.float32],  # [B, N, H, A]
        seeds: NDArray[np.uint64],  # [B] seeds of the particles' noise
    ) -> NDArray[np.float32]:  # [B, N, P] particle returns
        ...


@dataclass(frozen=True)
class Rollouts:
    """What candidates lead to: their returns, and what constraints are functions of."""

    returns: NDArray[np.float32]  # [B, N, P]
    states: NDArray[np.float32] | None = None  # [B, N, P, H, S] after each action, in physical units
    costs: NDArray[np.float32] | None = None  # [B, N, P, H] of each step, where the model predicts them


class RolloutEvaluator(Evaluator, Protocol):
    """An evaluator that shows the particles' paths, for constraints and guards."""

    @property
    def members(self) -> int:
        """K: particle p is of member p % K."""
        ...

    @property
    def state_scale(self) -> NDArray[np.float32]:
        """[S] 1 / the standard deviation of the states in training."""
        ...

    def rollouts(self, observation: Any, actions: NDArray[np.float32], seeds: NDArray[np.uint64]) -> Rollouts:
        """As a call, with the paths."""
        ...


class PlanningModel(Protocol):
    """A world model that steps a batch of latent states; planners.scoring turns it into an Evaluator.

    Rows are B problems x candidates x particles, in this order.
    """

    num_particles: int
    num_draws: int  # random numbers that a particle takes for a step

    def initial(self, observation: Any, num_candidates: int) -> Any:
        """Latents of B problems x num_candidates x num_particles rows."""
        ...

    def step(self, latent: Any, action: Any, noise: Any) -> tuple[Any, Any, Any]:
        """(next latent, reward [rows], continuation probability [rows]) of actions [rows, A].

        The noise [B, P, draws] in [0, 1) is that of a problem's particles, the same for all its candidates: what
        differs between two candidates is then their actions alone.
        """
        ...

    def value(self, latent: Any) -> Any:
        """Return expected beyond the horizon [rows], or 0."""
        ...


class ObservablePlanningModel(PlanningModel, Protocol):
    """A planning model whose latents say what constraints and guards are functions of.

    A model without costs leaves `costs` out, one without states `states`.
    """

    num_members: int  # K: particle p is of member p % K
    state_scale: NDArray[np.float32]  # [S] 1 / the standard deviation of the states in training

    def states(self, latent: Any) -> Any:
        """[rows, S] in physical units."""
        ...

    def costs(self, latent: Any) -> Any:
        """[rows] the environment's declared cost of the step to them."""
        ...


@dataclass(frozen=True)
class Expansion:
    """What a model says of B states that a tree search expands, as torch tensors."""

    logits: Any  # [B, N] of the prior over the state's actions; of samples log(pi / beta), 0 if drawn from the prior
    value: Any  # [B]
    actions: Any = None  # [B, N, A] samples of a box; None where the actions are ids
    invalid: Any = None  # bool [B, N] what may not be done there; None for nothing. All of them: searches end there


class TreeModel(Protocol):
    """A world model as a tree search sees it. Its latents are named tuples of tensors [B, ...]."""

    discrete: bool  # whether actions are the ids 0 to N - 1, which `step` takes as one-hot vectors
    num_actions: int  # N of every state
    num_draws: int  # random numbers that a state takes, for the step to it and its actions

    def step(self, latent: Any, action: Any, noise: Any) -> tuple[Any, Any, Any]:
        """(next latent, reward [B], continuation probability [B]) of actions [B, A]; noise [B, draws] in [0, 1).

        The reward is that of who acts. The continuation is negative where the other player is to move next.
        """
        ...

    def expand(self, latent: Any, noise: Any) -> Expansion:
        """Prior, value and actions of the states; the same noise as for the step to them.

        The value is that of who moves next.
        """
        ...


@runtime_checkable
class RootedTreeModel(Protocol):
    """A tree model that makes the roots of searches from what is observed; others are given latents."""

    def root(self, observation: NDArray[np.float32], seeds: NDArray[np.uint64]) -> Any:
        """Latents of the states [B, S]; the seeds [B] are of all that is random below them."""
        ...


@runtime_checkable
class BlankTreeModel(Protocol):
    """A tree model that says what its latents look like, which the reuse of subtrees needs."""

    def blank(self, rows: int) -> Any:
        """Latents of any content."""
        ...


class Plannable(Protocol):
    """A model that planners may search; each kind of search asks for the view of it that it needs."""

    def evaluator(self, config: SequenceConfig) -> Evaluator:
        """What scores sequences of actions.

        Raises:
            ValueError: The model cannot.
        """
        ...

    def tree(self, config: MctsConfig) -> TreeModel:
        """What a tree search expands.

        Raises:
            ValueError: The model cannot.
        """
        ...


class Planner(Protocol):
    """Plans actions for B problems at once.

    The carry is what a planner remembers between the steps of an episode: a dataclass of arrays with a row per
    problem, owned by the caller, who only takes and joins its rows. Planners hold no episode state, so any planner
    process can serve any problem in any batch and the plan of a problem does not depend on what it is batched with.
    """

    def initial(self, seeds: NDArray[np.uint64]) -> Any:
        """The carry of len(seeds) problems before their first plan."""
        ...

    def plan(
        self,
        observation: Any,  # [B, S], or the latent states of B problems
        carry: Any,
        is_first: NDArray[np.bool_],  # [B] rows whose warm start is cleared before planning
        explore: bool,  # whether noise that makes a search explore acts; without it the plan is for evaluation
    ) -> tuple[Plan, Any]:
        """The plan and the next carry."""
        ...

    def skip(self, carry: Any) -> Any:
        """The next carry where a step is taken without a plan."""
        ...
