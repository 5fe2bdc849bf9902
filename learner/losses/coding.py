"""The losses of a coder that is trained with the dynamics of its latents.

The dynamics learn the change from the code of an observation to the code of the next one, through which no gradient
flows. The code is held to the observation by its reconstruction, and a prediction by the next observation that it is
decoded to; both are half the mean squared error in the units of the coder.

Letters: K members, N rows, S flat observation size, L latent features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.losses.ensemble_config import EnsembleLossConfig
from learner.models.coder import Code
from learner.models.ensemble import EnsemblePrediction
from learner.models.latent_ensemble import LatentEnsemble


@dataclass(frozen=True)
class CodedRows:
    """Transitions as the dynamics see them."""

    latent: Tensor  # [N, L] that the dynamics start from
    target: Tensor  # [N, L + 1] change to the code of the next observation, and the reward
    code: Code  # of the observation
    sample: Tensor  # [N, L] that is decoded
    observation: Tensor  # [N, S] in the units of the coder
    following: Tensor  # [N, S] the next observation, likewise


def code_rows(model: LatentEnsemble, observation: Tensor, target: Tensor, sample: bool = False) -> CodedRows:
    """Code transitions.

    Args:
        model: What codes.
        observation: [N, S].
        target: [N, S + 1] change of the observation, and the reward.
        sample: Whether a variational code is drawn instead of its mean.
    """
    coder = model.coder
    following = observation + target[:, :-1]
    code = coder.encode(observation)
    drawn = code.sample() if sample else code.mean
    with torch.no_grad():
        change = coder.encode(following).mean - drawn
    latent = drawn if coder.config.shared else drawn.detach()
    whole = torch.cat([change, target[:, -1:]], 1)
    return CodedRows(latent, whole, code, drawn, coder.units(observation), coder.units(following))


def coding_losses(
    config: EnsembleLossConfig, model: LatentEnsemble, coded: CodedRows, prediction: EnsemblePrediction, updates: int
) -> dict[str, tuple[float, Tensor]]:
    """Terms of the loss, name -> (scale, loss of every row): reconstruction, prediction and divergence.

    Args:
        config: The scales.
        model: What codes.
        coded: The transitions.
        prediction: What the members said of them, in normalised units.
        updates: Updates so far, for the schedule of the divergence.
    """
    coder = model.coder
    rebuilt = coder.decode_units(coded.sample)
    terms = {"reconstruction": (config.reconstruction_scale, _half_square(rebuilt, coded.observation))}
    if config.prediction_scale > 0.0:
        change = (prediction.mean * model.output_scale + model.output_shift)[..., :-1]
        decoded = coder.decode_units(coded.latent + change)
        terms["prediction"] = (config.prediction_scale, _half_square(decoded, coded.following))
    if coder.config.variational:
        rising = min(1.0, updates / config.kl_warmup) if config.kl_warmup else 1.0
        terms["kl"] = (config.kl_scale * rising, coded.code.divergence())
    return terms


def _half_square(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, mean over the last axis."""
    return 0.5 * (prediction - target).square().mean(-1)
