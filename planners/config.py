"""Configuration of planners: one record per method, told apart by `method`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from envs.numbers import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, check_fields
from planners.constraint_config import ConstraintConfig, Cost, GuardConfig
from planners.risk_config import MeanRisk, Risk

Propagation = Literal["ts_inf", "ts1"]
Precision = Literal["auto", "fp32", "bf16"]
Selection = Literal["puct", "gumbel"]
Normalisation = Literal["siblings", "tree", "bounds"]

BOX_SAMPLES = 16
"""Actions of a node that a tree search draws from a box when it is not told how many."""


@dataclass(frozen=True)
class SequenceConfig:
    """What all searches of action sequences share: how many, and how a model scores them.

    Args:
        method: Tells the configurations apart.
        horizon: Actions per sequence.
        population: Candidates of the first iteration.
        particles: Rollouts per candidate; of an ensemble a multiple of the members, None is one per member.
        propagation: "ts_inf" follows one member per particle, "ts1" draws a member per step (ensembles).
        sample: Gaussian members draw their predictions instead of using the mean (ensembles).
        risk: Score of a candidate's particle returns.
        constraint: What plans must not do; candidates that keep to it rank first.
        guard: Penalty of plans on which the members of an ensemble disagree more than in training.
        smoothness: Score lost per unit of the mean squared change between successive actions, in half-widths of the
            box, the change from the last plan's action included.
        gamma: Discount of predicted rewards.
        precision: Of the matrix products; "auto" is bf16 where the processor has it, else fp32 (ensembles).
        threads: Threads of one planning call.

    Raises:
        ValueError: A field is out of range.
    """

    method: Literal["icem", "cem", "mppi", "random_shooting"]
    horizon: Annotated[int, Ge(1), Le(1 << 16)] = 15
    population: Annotated[int, Ge(1), Le(1 << 24)] = 200
    particles: PositiveInt | None = None
    propagation: Propagation = "ts_inf"
    sample: bool = True
    risk: Risk = field(default_factory=MeanRisk)
    constraint: ConstraintConfig | None = None
    guard: GuardConfig | None = None
    smoothness: NonNegativeFloat = 0.0
    gamma: Fraction = 1.0
    precision: Precision = "auto"
    threads: PositiveInt = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.risk.part != "both" and self.propagation == "ts1":
            raise ValueError(
                f"risk.part {self.risk.part} needs particles that keep their member: propagation ts_inf, got ts1"
            )

    @property
    def needs_states(self) -> bool:
        """Whether scores are functions of predicted states too."""
        costs_only = self.constraint is not None and isinstance(self.constraint.signal, Cost)
        return self.guard is not None or (self.constraint is not None and not costs_only)


@dataclass(frozen=True)
class RandomShootingConfig(SequenceConfig):
    """One iteration of candidates, uniform in the box; executes the best."""

    method: Literal["random_shooting"] = "random_shooting"


@dataclass(frozen=True)
class GaussianConfig(SequenceConfig):
    """What searches share that move a Gaussian over sequences.

    Args:
        iterations: Times the distribution is refitted.
        init_std: First standard deviation in half-widths of the action box.
        warm_start: Start from the last plan, shifted by one step, except on the first step of an episode.
    """

    iterations: PositiveInt = 4
    init_std: PositiveFloat = 0.5
    warm_start: bool = True


@dataclass(frozen=True)
class MppiConfig(GaussianConfig):
    """Model predictive path integral control (Williams et al. 2017, arXiv:1707.02342).

    All candidates, weighted by exp(score / temperature), move the mean of a Gaussian whose standard deviation stays
    init_std; executes the mean.

    Args:
        temperature: Of the softmax, in units of the return.
    """

    method: Literal["mppi"] = "mppi"
    temperature: PositiveFloat = 1.0


@dataclass(frozen=True)
class EliteConfig(GaussianConfig):
    """What searches share whose best candidates refit the Gaussian.

    Args:
        elites: Best candidates that refit the distribution, at most the population.
        momentum: Share of the old mean and standard deviation that a refit keeps.
        min_std: Smallest standard deviation in half-widths of the action box.
        execute: "mean" of the last distribution, or "best" candidate of the last iteration. The mean overfits the
            errors of a learned model less.
        rescore_particles: Rollouts per candidate in a second evaluation of the 2 * elites best candidates of every
            iteration, from which the elites are then taken; a multiple of the members, None for none. A small tail
            needs many particles, which only the candidates that count then cost.
    """

    elites: PositiveInt = 20
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.1
    min_std: NonNegativeFloat = 0.05
    execute: Literal["mean", "best"] = "mean"
    rescore_particles: PositiveInt | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elites > self.population:
            raise ValueError(f"elites must be at most the population {self.population}, got {self.elites}")


@dataclass(frozen=True)
class CemConfig(EliteConfig):
    """The cross-entropy method as in PETS (Chua et al. 2018, arXiv:1805.12114): white noise, a constant population.

    Args:
        truncate: Cut the noise at two standard deviations that fit in the box, instead of clipping.
    """

    method: Literal["cem"] = "cem"
    truncate: bool = False


@dataclass(frozen=True)
class IcemConfig(EliteConfig):
    """The sample-efficient cross-entropy method (Pinneri et al. 2020, arXiv:2008.06389).

    The noise is coloured, elites join the next candidates, and the population decays.

    Args:
        noise_beta: Power spectrum of the noise ~ frequency^-beta; 0 is white, 2 a random walk.
        population_decay: Iteration i has population / decay^i candidates, at least 2 * elites.
        keep_fraction: Share of the elites that joins the candidates of the next iteration and step.
    """

    method: Literal["icem"] = "icem"
    noise_beta: Annotated[float, Ge(0), Le(16)] = 2.0
    population_decay: Annotated[float, Ge(1)] = 1.25
    keep_fraction: Fraction = 0.3


@dataclass(frozen=True)
class MctsConfig:
    """A tree of actions, over a model with a policy and a critic or over an ensemble.

    See native.Mcts for the selections' fields.

    Args:
        method: Tells the configurations apart.
        gamma: Discount of predicted rewards.
        threads: Threads of one planning call.
        simulations: Model steps per plan, S.
        selection: "puct" (Schrittwieser et al. 2020) or "gumbel" (Danihelka et al. 2022).
        sampled_actions: Actions of a node that are drawn (Hubert et al. 2021), None for all ids and 16 of a box. Of ids
            those found are kept once each, with their shares of the draws corrected by the proposal.
        proposal_temperature: Ids are drawn from the prior to the power of 1 / proposal_temperature: evenly above 1.
        max_depth: Actions from the root to a leaf at most, 0 for no limit. Of an ensemble, how far it looks ahead.
        uncertainty: Standard deviations of an ensemble's members by which the score of a path is above their mean:
            optimism, or caution below 0. Models without members need 0.
        normalisation: What scales Q values to [0, 1]: the extremes among a node and its children ("siblings", mctx's),
            those of the tree so far ("tree", MuZero's), or min_value and max_value ("bounds", board games).
        min_value: Least value ("bounds").
        max_value: Largest value ("bounds").
        min_range: Extremes closer than this count as this far apart (EfficientZero has 0.01).
        reuse_subtree: Start from what lies below the action that was taken; its visits count among the simulations. For
            "puct" over all ids; what is reused was evaluated with the weights of then.
        action_temperature: (training step, temperature) pairs, from that step on: explorers draw their action from the
            search's weights to the power of 1 / temperature, and take the best one at 0.
        c1: Exploration (puct).
        c2: Growth of the exploration with the visits (puct).
        dirichlet_alpha: Concentration of the noise in the root's prior when exploring (puct).
        dirichlet_fraction: Its share (puct).
        gumbel_scale: Of the noise on the root's logits when exploring (gumbel).
        max_considered: Actions that the root's sequential halving starts with (gumbel).
        value_scale: Logits per unit of Q and visit (gumbel).
        maxvisit_init: Visits that Q counts from the start (gumbel).

    Raises:
        ValueError: A field is out of range.
    """

    method: Literal["mcts"] = "mcts"
    gamma: Fraction = 1.0
    threads: PositiveInt = 1
    simulations: PositiveInt = 50
    selection: Selection = "gumbel"
    sampled_actions: PositiveInt | None = None
    proposal_temperature: PositiveFloat = 1.0
    max_depth: NonNegativeInt = 0
    uncertainty: float = 0.0
    normalisation: Normalisation = "siblings"
    min_value: float = 0.0
    max_value: float = 1.0
    min_range: PositiveFloat = 1e-8
    reuse_subtree: bool = False
    action_temperature: tuple[tuple[NonNegativeInt, NonNegativeFloat], ...] = ((0, 0.0),)
    c1: NonNegativeFloat = 1.25
    c2: PositiveFloat = 19652.0
    dirichlet_alpha: PositiveFloat = 0.3
    dirichlet_fraction: Fraction = 0.0
    gumbel_scale: NonNegativeFloat = 0.0
    max_considered: PositiveInt = 16
    value_scale: NonNegativeFloat = 0.1
    maxvisit_init: NonNegativeFloat = 50.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_value <= self.min_value:
            raise ValueError(f"max_value must be more than min_value {self.min_value}, got {self.max_value}")
        if self.reuse_subtree and self.selection != "puct":
            raise ValueError(f"reuse_subtree needs selection puct, got {self.selection}")
        if self.reuse_subtree and self.sampled_actions is not None:
            raise ValueError(f"reuse_subtree needs all ids: sampled_actions must be null, got {self.sampled_actions}")
        steps = [step for step, _ in self.action_temperature]
        if steps[:1] != [0] or steps != sorted(set(steps)):
            raise ValueError(f"action_temperature must begin with step 0 and ascend, got {self.action_temperature}")

    def check_one_model(self, name: str) -> None:
        """Refuse uncertainty where one model is searched.

        Raises:
            ValueError: It counts.
        """
        if self.uncertainty != 0.0:
            raise ValueError(
                f"planner.uncertainty must be 0 for {name}, whose model has no members that could disagree, "
                f"got {self.uncertainty}"
            )

    def temperature_at(self, training_step: int) -> float:
        """Of the chosen action, after so many training steps."""
        return [temperature for start, temperature in self.action_temperature if start <= training_step][-1]

    def drawn_ids(self, num_ids: int) -> int | None:
        """How many of the ids are drawn at a node, None for all of them.

        Raises:
            ValueError: More than there are.
        """
        if self.sampled_actions is not None and self.sampled_actions > num_ids:
            raise ValueError(
                f"sampled_actions must be at most the number of actions {num_ids}, got {self.sampled_actions}"
            )
        return self.sampled_actions


PlannerConfig = IcemConfig | CemConfig | MppiConfig | RandomShootingConfig | MctsConfig
"""Of one planner; a new method is a record here, its class, and a case of planners.factory.make_planner."""
