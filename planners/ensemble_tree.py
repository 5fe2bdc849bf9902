"""MLP ensembles as a tree search sees them.

An ensemble has neither a policy nor a critic. Actions are drawn evenly from the box, and a leaf is worth what comes of
repeating its last action (at the root: the middle of the box) up to the horizon.

Letters: B problems, N actions of a node, A action size, S state size, H horizon, K members.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from native import Ensemble
from planners.base import Expansion
from planners.config import BOX_SAMPLES, MctsConfig

Weights = dict[str, NDArray[np.generic]]


class Path(NamedTuple):
    """A node: the observed state and the actions since, which every member follows on its own."""

    state: Tensor  # [B, S] where the search began
    seed: Tensor  # [B] int64, of the members' noise
    actions: Tensor  # [B, H, A] those taken, and zeros
    depth: Tensor  # [B] int64, how many were taken
    score: Tensor  # [B] of the returns so far


class EnsembleTreeModel:
    """See planners.base.RootedTreeModel. Needs weights, by `update`, first.

    The score of a path is the mean of its return over the members, plus `uncertainty` times the standard deviation of
    their means: above 0 a search is drawn to what the members disagree about, below 0 it keeps away from it. Rewards
    are differences of scores, so that they add up to that of the whole path; a predicted end leaves nothing to add.

    Args:
        config: The search; `max_depth` is the horizon H.
        low: [A] lower bounds of the box.
        high: [A] upper bounds.

    Raises:
        ValueError: There is no horizon, or the box is to be sampled otherwise than evenly.
    """

    discrete = False

    def __init__(self, config: MctsConfig, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        if config.max_depth == 0:
            raise ValueError("planner.max_depth must be at least 1 for ensembles: how far they look ahead")
        if config.proposal_temperature != 1.0:
            raise ValueError(
                f"proposal_temperature must be 1 for ensembles, whose actions are drawn evenly, "
                f"got {config.proposal_temperature}"
            )
        self.num_actions = config.sampled_actions or BOX_SAMPLES
        self.num_draws = self.num_actions * len(low)
        self._config = config
        self._low, self._width = torch.from_numpy(low), torch.from_numpy(high - low)
        self._ensemble: Ensemble | None = None

    def update(self, weights: Weights) -> None:
        """Replaces the weights; on an error the old ones stay.

        Raises:
            ValueError: The record is inconsistent or of other actions.
        """
        ensemble = Ensemble(weights, threads=self._config.threads)
        if ensemble.action_size != len(self._low):
            raise ValueError(f"the ensemble takes {ensemble.action_size} actions, the box has {len(self._low)}")
        self._ensemble = ensemble

    def root(self, observation: NDArray[np.float32], seeds: NDArray[np.uint64]) -> Path:
        """The nodes of the states [B, S] where searches begin."""
        state = torch.from_numpy(np.ascontiguousarray(observation, np.float32))
        rows = len(state)
        actions = torch.zeros(rows, self._config.max_depth, len(self._low))
        seed = torch.from_numpy(seeds.view(np.int64).copy())
        return Path(state, seed, actions, torch.zeros(rows, dtype=torch.int64), torch.zeros(rows))

    def step(self, latent: Path, action: Tensor, noise: Tensor) -> tuple[Path, Tensor, Tensor]:
        """The paths with one action more, the growth of their scores, and 1: rewards know of predicted ends."""
        actions, depth = latent.actions.clone(), latent.depth + 1
        actions[torch.arange(len(depth)), latent.depth] = action
        score = torch.empty_like(latent.score)
        for length in set(depth.tolist()):
            rows = depth == length
            score[rows] = self._score(latent.state[rows], actions[rows, :length], latent.seed[rows])
        following = Path(latent.state, latent.seed, actions, depth, score)
        reward = (score - latent.score) / self._discount(latent.depth)
        return following, reward, torch.ones_like(reward)

    def expand(self, latent: Path, noise: Tensor) -> Expansion:
        """Actions [B, N, A] drawn evenly, and what comes of repeating the last one."""
        rows, horizon, size = latent.actions.shape
        drawn = self._low + noise.view(rows, self.num_actions, size) * self._width
        last = latent.actions[torch.arange(rows), (latent.depth - 1).clamp(min=0)]
        last = torch.where(latent.depth[:, None] > 0, last, self._low + 0.5 * self._width)
        taken = torch.arange(horizon) < latent.depth[:, None]
        whole = torch.where(taken[..., None], latent.actions, last[:, None])
        value = (self._score(latent.state, whole, latent.seed) - latent.score) / self._discount(latent.depth)
        return Expansion(drawn.new_zeros(drawn.shape[:2]), torch.where(latent.depth < horizon, value, 0.0), drawn)

    def _discount(self, depth: Tensor) -> Tensor:
        return (self._config.gamma ** depth.float()).clamp(min=1e-30)

    def _score(self, state: Tensor, actions: Tensor, seed: Tensor) -> Tensor:
        """Scores [B] of actions [B, h, A]."""
        assert self._ensemble is not None
        returns = self._ensemble.rollout(
            state.numpy(),
            np.ascontiguousarray(actions.numpy()[:, None]),
            seed.numpy().view(np.uint64),
            particles=self._ensemble.num_members,
            propagation="ts_inf",
            gamma=self._config.gamma,
            sample=False,
        )[:, 0]
        score: NDArray[np.float32] = returns.mean(-1)
        if self._config.uncertainty:
            score = score + self._config.uncertainty * returns.std(-1)
        return torch.from_numpy(score.astype(np.float32))
