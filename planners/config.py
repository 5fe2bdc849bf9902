"""Configuration of sampling planners."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Method = Literal["icem", "cem", "mppi", "random_shooting"]
Propagation = Literal["ts_inf", "ts1"]
Precision = Literal["auto", "fp32", "bf16"]
ObjectiveName = Literal["mean", "mean_std"]


@dataclass(frozen=True)
class PlannerConfig:
    """How action sequences are searched and scored.

    One search serves every method; a method ignores the fields that it does not name:

    - ``icem`` (Pinneri et al., 2020, arXiv:2008.06389): elites refit a Gaussian with coloured noise, join the next
      candidates, and the population decays.
    - ``cem`` (Chua et al., 2018, arXiv:1805.12114): the same with white noise, a constant population and no reuse.
    - ``mppi`` (Williams et al., 2017, arXiv:1707.02342): all candidates, weighted by exp(score / temperature), move the
      mean of a Gaussian whose standard deviation stays init_std; executes the mean.
    - ``random_shooting``: one iteration, uniform in the box; executes the best candidate.

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
