"""Codes observations for planners: the encoder of a model with a coder.

Letters: N environments, S flat observation size, L latent features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from envs.specs import ArraySpec
from learner.models.coder import Coder
from learner.models.coder_config import CoderConfig
from learner.models.latent_ensemble import PREFIX
from planners.ensemble import Weights


class CoderObserver:
    """See actors.planning.Observer.

    Args:
        config: Shape of the coder.
        observation: What it codes.
    """

    def __init__(self, config: CoderConfig, observation: ArraySpec) -> None:
        with torch.random.fork_rng(devices=[]):  # initial weights are never used: leave the process's numbers alone
            self.coder = Coder(config, observation)

    def update(self, weights: Weights) -> Weights:
        """Takes the coder's arrays; returns the others.

        Raises:
            RuntimeError: The weights are of another coder.
        """
        own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in own.items()}
        kept = {name: value for name, value in self.coder.state_dict().items() if name.startswith("statistics.")}
        self.coder.load_state_dict(tensors | kept)
        return {name: value for name, value in weights.items() if not name.startswith(PREFIX)}

    @torch.no_grad()
    def __call__(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Flat observations [N, S] -> latents [N, L]."""
        latent: NDArray[np.float32] = self.coder.encode(torch.from_numpy(observation)).mean.numpy()
        return latent
