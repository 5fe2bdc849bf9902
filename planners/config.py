"""Configuration of planners."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Method = Literal["icem", "cem", "mppi", "random_shooting", "mcts"]
Propagation = Literal["ts_inf", "ts1"]
Precision = Literal["auto", "fp32", "bf16"]
ObjectiveName = Literal["mean", "mean_std"]
Selection = Literal["puct", "gumbel"]


@dataclass(frozen=True)
class TreeConfig:
    """How a tree search spends its simulations; see native.Mcts for what the fields of each selection do.

    Args:
        simulations: Model steps per plan, S.
        selection: "puct" (Schrittwieser et al. 2020) or "gumbel" (Danihelka et al. 2022).
        sampled_actions: Actions of a node, drawn from the policy, where actions are continuous (Hubert et al. 2021).
        max_depth: Actions from the root to a leaf at most, 0 for no limit.
        c1: Exploration (puct).
        c2: Growth of the exploration with the visits (puct).
        dirichlet_alpha: Concentration of the noise in the root's prior (puct).
        dirichlet_fraction: Its share (puct).
        gumbel_scale: Of the noise on the root's logits (gumbel).
        max_considered: Actions that the root's sequential halving starts with (gumbel).
        value_scale: Logits per unit of Q and visit (gumbel).
        maxvisit_init: Visits that Q counts from the start (gumbel).

    Raises:
        ValueError: A field is out of range.
    """

    simulations: int = 50
    selection: Selection = "gumbel"
    sampled_actions: int = 16
    max_depth: int = 0
    c1: float = 1.25
    c2: float = 19652.0
    dirichlet_alpha: float = 0.3
    dirichlet_fraction: float = 0.0
    gumbel_scale: float = 0.0
    max_considered: int = 16
    value_scale: float = 0.1
    maxvisit_init: float = 50.0

    def __post_init__(self) -> None:
        _check_choice("tree.selection", self.selection, get_args(Selection))
        for name in ("simulations", "sampled_actions", "max_considered"):
            _check(f"tree.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("max_depth", "c1", "gumbel_scale", "value_scale", "maxvisit_init"):
            value = getattr(self, name)
            _check(f"tree.{name}", value, 0.0 <= value < math.inf, "finite and not negative")
        for name in ("c2", "dirichlet_alpha"):
            _check(f"tree.{name}", getattr(self, name), 0.0 < getattr(self, name) < math.inf, "positive")
        _check("tree.dirichlet_fraction", self.dirichlet_fraction, 0.0 <= self.dirichlet_fraction <= 1.0, "in [0, 1]")


@dataclass(frozen=True)
class PlannerConfig:
    """How actions are searched and scored.

    One search of action sequences serves every method but mcts; a method ignores the fields that it does not name:

    - ``icem`` (Pinneri et al., 2020, arXiv:2008.06389): elites refit a Gaussian with coloured noise, join the next
      candidates, and the population decays.
    - ``cem`` (Chua et al., 2018, arXiv:1805.12114): the same with white noise, a constant population and no reuse.
    - ``mppi`` (Williams et al., 2017, arXiv:1707.02342): all candidates, weighted by exp(score / temperature), move the
      mean of a Gaussian whose standard deviation stays init_std; executes the mean.
    - ``random_shooting``: one iteration, uniform in the box; executes the best candidate.
    - ``mcts``: a tree of actions, see TreeConfig; needs a model with a policy and a critic. Uses `tree`, `gamma` and
      `threads` alone.

    Args:
        method: See above.
        horizon: Actions per sequence.
        population: Candidates of the first iteration.
        elites: Best candidates that refit the distribution (icem, cem).
        iterations: Times the distribution is refitted (icem, cem, mppi).
        momentum: Share of the old mean and standard deviation that a refit keeps (icem, cem).
        noise_beta: Power spectrum of the noise ~ frequency^-beta; 0 is white, 2 a random walk (icem).
        population_decay: Iteration i has population / decay^i candidates, at least 2 * elites (icem).
        keep_fraction: Share of the elites that joins the candidates of the next iteration and step (icem).
        init_std: First standard deviation in half-widths of the action box (icem, cem, mppi).
        min_std: Smallest standard deviation in half-widths of the action box (icem, cem).
        truncate: Cut the noise at two standard deviations that fit in the box, instead of clipping (cem).
        temperature: Of the softmax, in units of the return (mppi).
        execute: "mean" of the last distribution, or "best" candidate of the last iteration (icem, cem). The mean
            overfits the errors of a learned model less.
        particles: Rollouts per candidate, a multiple of the members; None is one per member.
        propagation: "ts_inf" follows one member per particle, "ts1" draws a member per step.
        sample: Gaussian members draw their predictions instead of using the mean.
        objective: Score of a candidate's particle returns: "mean", or "mean_std" for mean - risk_lambda * std.
        risk_lambda: Aversion to the standard deviation, in "mean_std".
        gamma: Discount of predicted rewards.
        precision: Of the matrix products; "auto" is bf16 where the processor has it, else fp32.
        threads: Threads of one planning call.
        warm_start: Start from the last plan, shifted by one step, except on the first step of an episode.
        tree: The tree search (mcts).

    Raises:
        ValueError: A field is out of range.
    """

    method: Method = "icem"
    horizon: int = 15
    population: int = 200
    elites: int = 20
    iterations: int = 4
    momentum: float = 0.1
    noise_beta: float = 2.0
    population_decay: float = 1.25
    keep_fraction: float = 0.3
    init_std: float = 0.5
    min_std: float = 0.05
    truncate: bool = False
    temperature: float = 1.0
    execute: Literal["mean", "best"] = "mean"
    particles: int | None = None
    propagation: Propagation = "ts_inf"
    sample: bool = True
    objective: ObjectiveName = "mean"
    risk_lambda: float = 0.5
    gamma: float = 1.0
    precision: Precision = "auto"
    threads: int = 1
    warm_start: bool = True
    tree: TreeConfig = field(default_factory=TreeConfig)

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        _check_choice("execute", self.execute, ("mean", "best"))
        _check_choice("propagation", self.propagation, get_args(Propagation))
        _check_choice("objective", self.objective, get_args(ObjectiveName))
        _check_choice("precision", self.precision, get_args(Precision))
        for name in ("horizon", "population", "elites", "iterations", "threads"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check("elites", self.elites, self.elites <= self.population, f"at most the population {self.population}")
        _check("particles", self.particles, self.particles is None or self.particles >= 1, "at least 1")
        _check("momentum", self.momentum, 0.0 <= self.momentum < 1.0, "in [0, 1)")
        _check("noise_beta", self.noise_beta, 0.0 <= self.noise_beta <= 16.0, "in [0, 16]")
        _check("population_decay", self.population_decay, 1.0 <= self.population_decay < math.inf, "at least 1")
        _check("keep_fraction", self.keep_fraction, 0.0 <= self.keep_fraction <= 1.0, "in [0, 1]")
        _check("init_std", self.init_std, 0.0 < self.init_std < math.inf, "positive")
        _check("temperature", self.temperature, 0.0 < self.temperature < math.inf, "positive")
        _check("gamma", self.gamma, 0.0 <= self.gamma <= 1.0, "in [0, 1]")
        for name in ("min_std", "risk_lambda"):
            _check(name, getattr(self, name), 0.0 <= getattr(self, name) < math.inf, "finite and not negative")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"planner {name} must be one of {', '.join(choices)}, not {value!r}")


def _check(name: str, value: Any, valid: bool, rule: str) -> None:
    if not valid:
        raise ValueError(f"planner {name} must be {rule}, not {value}")
