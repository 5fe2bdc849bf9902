"""The loss of an ensemble: state + 0.5 reward + 0.1 done for every member, and a coder's terms, then reduced.

Letters: K members, N rows, D = S + 1 predicted quantities (delta state, then reward), normalised units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from learner.losses.ensemble_config import EnsembleLossConfig
from learner.losses.likelihood import beta_nll, binary_cross_entropy, huber, squared_error
from learner.models.ensemble import EnsemblePrediction

Reduction = Literal["none", "mean"]


@dataclass(frozen=True)
class EnsembleLoss:
    """Terms of the loss, each [K] under reduction "none" and a scalar under "mean"."""

    total: Tensor
    state: Tensor
    reward: Tensor
    done: Tensor  # 0 without a termination output
    entropy: Tensor  # nats per predicted quantity; 0 of deterministic members
    coding: dict[str, Tensor] = field(default_factory=dict)  # terms of a coder by their names

    def terms(self) -> dict[str, Tensor]:
        """Every term by its name."""
        own = {"state": self.state, "reward": self.reward, "done": self.done, "entropy": self.entropy}
        return own | self.coding


def ensemble_loss(
    config: EnsembleLossConfig,
    prediction: EnsemblePrediction,
    target: Tensor,
    terminal: Tensor,
    weights: Tensor,
    weight_sums: Tensor | None = None,
    reduce: Reduction = "none",
    coding: Mapping[str, tuple[float, Tensor]] | None = None,
) -> EnsembleLoss:
    """Weighted mean over rows of state + reward_scale reward + done_scale done - entropy_scale entropy, and more.

    Args:
        config: The terms.
        prediction: What the members said, in normalised units.
        target: [N, D] normalised delta state and reward.
        terminal: [N] 1 where the step ended the episode by termination.
        weights: [K, N] weight of every row for every member, 0 leaves it out.
        weight_sums: [K] divisors, by default the sums of `weights`; a data-parallel rank passes the global sums,
            so that the terms of all ranks add up to those of one rank with the whole batch.
        reduce: "none" for one value per member, "mean" for their mean.
        coding: Further terms, name -> (scale, loss of every row, [N] or [K, N]).
    """
    coding = coding or {}
    sums = (weights.sum(1) if weight_sums is None else weight_sums).clamp(min=1e-8)
    rows = _row_losses(config, prediction, target, terminal)
    rows += [row.expand_as(weights) for _, row in coding.values()]
    # Rows without weight may hold anything, even NaN: the next episode's start, say.
    kept = weights > 0
    terms = [torch.where(kept, row * weights, 0.0).sum(1) / sums for row in rows]
    state, reward, done, entropy, *others = terms if reduce == "none" else [term.mean() for term in terms]
    total = state + config.reward_scale * reward + config.done_scale * done - config.entropy_scale * entropy
    for (scale, _), term in zip(coding.values(), others, strict=True):
        total = total + scale * term
    return EnsembleLoss(total, state, reward, done, entropy, dict(zip(coding, others, strict=True)))


def logvar_penalty(config: EnsembleLossConfig, min_logvar: Tensor, max_logvar: Tensor) -> Tensor:
    """The PETS regulariser that pulls the learned bounds together: a scalar."""
    return config.logvar_regulariser * (max_logvar.sum() - min_logvar.sum())


def _row_losses(
    config: EnsembleLossConfig, prediction: EnsemblePrediction, target: Tensor, terminal: Tensor
) -> list[Tensor]:
    """State, reward and termination losses and the entropy, each [K, N]."""
    mean, target = prediction.mean, target.expand_as(prediction.mean)
    if prediction.logvar is not None:
        nll = beta_nll(mean, prediction.logvar, target, config.nll_beta, prediction.degrees)
        state, reward = nll[..., :-1].mean(-1), nll[..., -1]
        entropy = 0.5 * (prediction.logvar.mean(-1) + math.log(2.0 * math.pi * math.e))
    else:
        difference = (mean[..., :-1], target[..., :-1])
        errors = squared_error(*difference) if config.state == "mse" else huber(*difference, config.huber_delta)
        state, reward = errors.mean(-1), huber(mean[..., -1], target[..., -1], config.huber_delta)
        entropy = torch.zeros_like(state)
    if prediction.done_logit is None:
        return [state, reward, torch.zeros_like(state), entropy]
    logit = prediction.done_logit
    done = binary_cross_entropy(logit, terminal.expand_as(logit), config.done_positive_weight)
    return [state, reward, done, entropy]
