"""The model of MuZero as a tree search sees it.

Letters: B problems, N actions of a node, A action size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.latent_models import normals
from learner.models.distributions import OneHot
from learner.models.muzero import Latent, MuZeroModel
from planners.base import Expansion


class SearchedModel:
    """See planners.base.TreeModel.

    Where actions are ids the policy is their prior. Where they are a box a node has samples of the policy, which are
    then equally likely: the prior is the policy over the sampling distribution, times the samples' own shares (Hubert
    et al. 2021, section 5).

    Args:
        model: The model.
        discount: Of rewards per step, which is what the model says of the continuation.
        sampled_actions: Samples of a node, where actions are a box.
    """

    def __init__(self, model: MuZeroModel, discount: float, sampled_actions: int) -> None:
        self.discrete = model.discrete
        self._model, self._discount = model, discount
        self.num_actions = model.action.size if model.discrete else sampled_actions
        self.num_draws = 0 if model.discrete else sampled_actions * model.action.size

    def step(self, latent: Latent, action: Tensor, noise: Tensor) -> tuple[Latent, Tensor, Tensor]:
        """The next latents, the rewards and the discount."""
        following, predicted = self._model.step(latent, action)
        reward = self._model.received(latent, predicted)
        return following, reward, torch.full_like(reward, self._discount)

    def blank(self, rows: int) -> Latent:
        """Latents of zeros."""
        return self._model.blank(rows)

    def expand(self, latent: Latent, noise: Tensor) -> Expansion:
        """Prior, value and actions of the states."""
        policy, value = self._model.predict(latent.state)
        rows, size = len(latent.state), self._model.action.size
        if isinstance(policy, OneHot):
            return Expansion(policy.log_probs, value.mean)
        eps = normals(noise).view(rows, self.num_actions, size).transpose(0, 1)
        actions = policy.sample(eps).transpose(0, 1).clamp(-1.0, 1.0)
        return Expansion(actions.new_zeros(actions.shape[:2]), value.mean, actions)
