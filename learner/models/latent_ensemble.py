"""An ensemble that predicts latents instead of states: a coder around the same members.

What plans and what is exported are the members' networks of [latent, action], so the planners of ensembles take them
as they are; an observation is coded once per decision.

Letters: K members, N rows, S flat observation size, L latent features.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.specs import ArraySpec
from learner.models.coder import Coder
from learner.models.coder_config import CoderConfig
from learner.models.ensemble import Ensemble, as_float32
from learner.models.ensemble_config import EnsembleConfig
from learner.models.normaliser import RunningNormaliser

logger = logging.getLogger(__name__)
PREFIX = "coder."
"""Of the coder's arrays in the exported record."""
IMAGE_LATENTS = (32, 128)
"""Features that the latent of an image usually has."""


class LatentEnsemble(Ensemble):
    """K MLPs that predict the change of a latent, and the coder that they share.

    Args:
        config: Shape of the members.
        coder: Shape of the coder.
        observation: What is coded.
        action_size: A.
        seed: Seed of the initial weights.

    Raises:
        ValueError: The convolutions do not fit the image.
    """

    is_coded = True

    def __init__(
        self, config: EnsembleConfig, coder: CoderConfig, observation: ArraySpec, action_size: int, seed: int = 0
    ) -> None:
        super().__init__(config, coder.size, action_size, seed)
        self.observation = observation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.coder = Coder(coder, observation)
        low, high = IMAGE_LATENTS
        if self.coder.is_image and not low <= coder.size <= high:
            logger.warning("algorithm.coder.size %d is outside [%d, %d], usual for images", coder.size, low, high)

    @property
    def normalisers(self) -> list[RunningNormaliser]:
        """Running statistics, which stay in double precision."""
        own = self.coder.statistics
        return super().normalisers + ([] if own is None else [own])

    def observe(self, observation: Tensor) -> Tensor:
        """Flat observations [N, S] -> the means of their codes [N, L]."""
        return self.coder.encode(observation).mean

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [..., L] -> flat observations [..., S]."""
        return self.coder.decode(latent)

    def export(self) -> dict[str, NDArray[Any]]:
        """The record of `Ensemble.export`, with the coder's arrays under names that begin with "coder."."""
        coder = {
            PREFIX + name: as_float32(value)
            for name, value in self.coder.state_dict().items()
            if not name.startswith("statistics.")
        }
        return super().export() | coder

    def recipe(self) -> dict[str, Any]:
        """What `load_member` needs besides the tensors."""
        spec = self.observation
        return super().recipe() | {
            "coder": vars(self.coder.config),
            "observation": {"shape": spec.shape, "dtype": spec.dtype},
        }
