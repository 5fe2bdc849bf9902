"""The world model of the Dreamer family: what an actor or a planner needs of it, and the whole.

Letters: B sequences, T steps, N rows, D + S features of a state, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.specs import ArraySpec, EnvSpec
from learner.algorithms.dreamer_config import DisagreementConfig, DreamerConfig
from learner.models.dimensions import Dimensions
from learner.models.heads import ContinuationHead, ScalarHead
from learner.models.layers import ActivationName, Linear, Mlp, NormName
from learner.models.observation import Decoder, Encoder, ObservationKeys
from learner.models.rssm import Rssm, State


class ActionCodec(nn.Module):
    """Actions of an environment as models see them: boxes become [-1, 1], ids become one-hot.

    Args:
        spec: Spec of the action.

    Raises:
        ValueError: The action is unbounded, or an array of ids.
    """

    low: Tensor
    high: Tensor
    scale: Tensor

    def __init__(self, spec: ArraySpec) -> None:
        super().__init__()
        self.spec = spec
        self.size = spec.num_values or spec.size
        if spec.is_discrete:
            if spec.shape:
                raise ValueError(f"actions must be single ids or a box, got ids of shape {spec.shape}")
            return
        low, high = (torch.tensor(bound.reshape(-1)) for bound in spec.bounds())
        if not (low.isfinite().all() and high.isfinite().all()):
            raise ValueError(f"actions must be bounded, got low {spec.low} and high {spec.high}")
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("scale", (high - low) / 2.0, persistent=False)

    def encode(self, action: Tensor, dtype: torch.dtype) -> Tensor:
        """Stored actions [..., *shape] -> [..., A]."""
        if self.spec.num_values is not None:
            return F.one_hot(action.long(), self.spec.num_values).to(dtype)
        leading = action.shape[: action.dim() - len(self.spec.shape)]
        return ((action.reshape(*leading, -1) - self.low) / self.scale - 1.0).to(dtype)

    def decode(self, action: Tensor) -> Tensor:
        """Model actions [N, A] -> what the environment takes [N, *shape], clipped into its box."""
        if self.spec.is_discrete:
            return action.argmax(-1)
        inside = torch.minimum(self.low + (action.clamp(-1.0, 1.0) + 1.0) * self.scale, self.high)  # despite rounding
        return inside.view(-1, *self.spec.shape)


class LatentModel(nn.Module):
    """Encoder, latent dynamics and the heads that a plan is scored by.

    Args:
        config: The algorithm.
        spec: The environment.

    Raises:
        ValueError: The observations or the action do not fit the configuration.
    """

    def __init__(self, config: DreamerConfig, spec: EnvSpec) -> None:
        super().__init__()
        norm, act, sizes = config.norm, config.act, config.sizes
        self.keys = ObservationKeys.of(spec.observation, config.observation)
        self.action = ActionCodec(spec.action)
        self.encoder = Encoder(self.keys, config.observation, sizes, norm, act)
        self.rssm = Rssm(config.rssm, sizes, self.encoder.tokens, self.action.size, norm, act)
        self.reward = ScalarHead(config.reward, self.rssm.features, sizes.units, norm, act)
        self.continuation: ContinuationHead | None = None
        if config.losses.continuation > 0.0:
            self.continuation = ContinuationHead(config.continuation_layers, self.rssm.features, sizes.units, norm, act)

    def observe(
        self, observation: Mapping[str, Tensor], action: Tensor, is_first: Tensor, state: State, noise: Tensor
    ) -> tuple[State, Tensor]:
        """Raw observations [B, T, ...] to posterior states and statistics; see `Rssm.observe`."""
        batch, steps = is_first.shape
        flat = {key: values.flatten(0, 1) for key, values in observation.items()}
        tokens = self.encoder(flat).unflatten(0, (batch, steps))
        return self.rssm.observe(tokens, action, is_first, state, noise)

    def predict_continuation(self, features: Tensor) -> Tensor:
        """Probability [...] that the episode goes on behind states [..., D + S]; 1 without such a head."""
        if self.continuation is None:
            return features.new_ones(features.shape[:-1])
        return self.continuation(features).mean  # type: ignore[no-any-return]


class WorldModel(LatentModel):
    """The whole model: a `LatentModel` that also predicts observations."""

    def __init__(self, config: DreamerConfig, spec: EnvSpec) -> None:
        super().__init__(config, spec)
        self.decoder = Decoder(self.keys, config.observation, config.sizes, self.rssm.stoch, config.norm, config.act)


class Disagreement(nn.Module):
    """An ensemble that predicts the next stochastic state; its variance is the intrinsic reward of Plan2Explore.

    Args:
        config: Shape.
        dimensions: Size.
        features: D + S.
        stoch: S.
        action: A.
        norm: Norm of the hidden layers.
        act: Activation of the hidden layers.
    """

    def __init__(
        self,
        config: DisagreementConfig,
        dimensions: Dimensions,
        features: int,
        stoch: int,
        action: int,
        norm: NormName,
        act: ActivationName,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(
                Mlp(features + action, dimensions.units, config.layers, norm, act), Linear(dimensions.units, stoch)
            )
            for _ in range(config.members)
        )

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """features [..., D + S], action [..., A] -> predictions [K, ..., S]."""
        x = torch.cat([features, action], -1)
        return torch.stack([member(x) for member in self.members])

    def loss(self, features: Tensor, action: Tensor, stoch: Tensor) -> Tensor:
        """Squared error [...] of all members for the stoch [..., S] that came."""
        return (self(features, action) - stoch).square().mean(-1).sum(0)  # type: ignore[no-any-return]

    def reward(self, features: Tensor, action: Tensor) -> Tensor:
        """Variance [...] of the members' predictions, mean over the features (Sekar et al. 2020, eq. 6)."""
        return self(features, action).var(0, unbiased=False).mean(-1)  # type: ignore[no-any-return]
