"""The networks of the Dreamer family: the world model, and the heads on its states that are not part of it.

A world model is encoder, latent dynamics, decoder, and heads for reward and continuation. Policies and critics are
heads on the same states.

Letters: B sequences, T steps, N rows, D + S features of a state, A action size or number of actions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.specs import ArraySpec, EnvSpec
from learner.models.distributions import (
    Bernoulli,
    BoundedNormal,
    OneHot,
    PartlyFixed,
    Policy,
    Regression,
    TanhNormal,
    TruncatedNormal,
    TwoHot,
    symexp_bins,
    widened,
)
from learner.models.layers import Linear, Mlp
from learner.models.observation import Decoder, Encoder, ObservationKeys
from learner.models.rssm import Rssm, State
from learner.models.sizes import Architecture
from learner.models.world_model_config import DisagreementConfig, PolicyConfig, ScalarConfig, WorldModelConfig


class _Head(nn.Module):
    """An MLP on states and a linear map to `outputs` numbers."""

    def __init__(self, features: int, layers: int, outputs: int, arch: Architecture, outscale: float = 1.0) -> None:
        super().__init__()
        self.mlp = Mlp(features, arch.sizes.units, layers, arch)
        self.out = Linear(arch.sizes.units, outputs, outscale)


class ScalarHead(_Head):
    """See ScalarConfig."""

    bins: Tensor

    def __init__(self, config: ScalarConfig, features: int, arch: Architecture) -> None:
        outputs = config.bins if config.output == "symexp_twohot" else 1
        super().__init__(features, config.layers, outputs, arch, config.outscale)
        self.config = config
        self.register_buffer("bins", symexp_bins(config.bins), persistent=False)

    def forward(self, features: Tensor) -> TwoHot | Regression:
        """features [..., D + S] -> a distribution [...]."""
        out = self.out(self.mlp(features))
        if self.config.output == "symexp_twohot":
            return TwoHot(out, self.bins)
        return Regression(out.squeeze(-1), 0, self.config.output == "symlog")


class ContinuationHead(_Head):
    """The probability that an episode continues, times the discount if the targets include it."""

    def __init__(self, layers: int, features: int, arch: Architecture) -> None:
        super().__init__(features, layers, 1, arch)

    def forward(self, features: Tensor) -> Bernoulli:
        """features [..., D + S] -> a distribution [...]."""
        return Bernoulli(self.out(self.mlp(features)).squeeze(-1))


class PolicyHead(_Head):
    """See PolicyConfig; discrete where the action is, over one-hot actions.

    Raises:
        ValueError: Every dimension of the action is fixed.
    """

    def __init__(self, config: PolicyConfig, action: ArraySpec, features: int, arch: Architecture) -> None:
        free = _free_dimensions(action)
        outputs = action.num_values or len(free)
        if outputs == 0:
            raise ValueError(f"every dimension of the action is fixed to {action.low}: a policy has nothing to choose")
        super().__init__(features, config.layers, outputs, arch, config.outscale)
        self.config, self.discrete = config, action.is_discrete
        self._free = None if self.discrete or outputs == action.size else (free, action.size)
        if not self.discrete:
            self.std = Linear(arch.sizes.units, outputs, config.outscale)

    def forward(self, features: Tensor) -> Policy:
        """features [..., D + S] -> a distribution over actions [..., A]."""
        x, config = self.mlp(features), self.config
        if self.discrete:
            return OneHot(self.out(x), config.unimix)
        mean, std = self.out(x), self.std(x)
        policy: Policy
        if config.continuous == "tanh_normal":
            policy = TanhNormal(mean, std, config.min_std)
        elif config.continuous == "truncated_normal":
            policy = TruncatedNormal(mean, std, config.min_std)
        else:
            policy = BoundedNormal(mean, std, config.min_std, config.max_std)
        return policy if self._free is None else PartlyFixed(policy, *self._free)


def _free_dimensions(action: ArraySpec) -> list[int]:
    """Dimensions of a box in which actions differ."""
    if action.is_discrete:
        return []
    low, high = action.box()
    return np.flatnonzero(low < high).tolist()


class Disagreement(nn.Module):
    """An ensemble that predicts the next stochastic state; its variance is the intrinsic reward of Plan2Explore."""

    def __init__(self, config: DisagreementConfig, rssm: Rssm, action: int, arch: Architecture) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(
                Mlp(rssm.features + action, arch.sizes.units, config.layers, arch),
                Linear(arch.sizes.units, rssm.stoch),
            )
            for _ in range(config.members)
        )

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """features [..., D + S], action [..., A] -> predictions [K, ..., S]."""
        x = torch.cat([features, action], -1)
        return widened(torch.stack([member(x) for member in self.members]))

    def loss(self, features: Tensor, action: Tensor, stoch: Tensor) -> Tensor:
        """Squared error [...] of all members for the next stoch [..., S]."""
        return (self(features, action) - stoch).square().mean(-1).sum(0)  # type: ignore[no-any-return]

    def reward(self, features: Tensor, action: Tensor) -> Tensor:
        """Variance [...] of the members' predictions, mean over the features (Sekar et al. 2020, eq. 6)."""
        return self(features, action).var(0, unbiased=False).mean(-1)  # type: ignore[no-any-return]


class ActionCodec(nn.Module):
    """Actions of an environment as models see them: boxes become [-1, 1], ids become one-hot.

    A fixed dimension of a box, where both bounds are equal, is 0 for the model and its bound for the environment.

    Args:
        spec: Spec of the action.
        what: The action, for errors.

    Raises:
        ValueError: The action is unbounded, too wide for float32, or an array of ids.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    reach: Tensor  # [A] largest magnitude that the model sees: 1, or 0 where it is fixed

    def __init__(self, spec: ArraySpec, what: str = "the action") -> None:
        super().__init__()
        self.spec = spec
        self.size = spec.num_values or spec.size
        self.register_buffer("reach", torch.ones(self.size), persistent=False)
        self.has_fixed = False
        if spec.is_discrete:
            if spec.shape:
                raise ValueError(f"actions must be single ids or a box, got ids of shape {spec.shape}")
            return
        low, high = map(torch.tensor, spec.box(what))
        half_width = (high - low) / 2.0
        self.reach.copy_(half_width > 0.0)
        self.has_fixed = not bool(self.reach.all())
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("scale", half_width, persistent=False)

    def encode(self, action: Tensor, dtype: torch.dtype) -> Tensor:
        """Stored actions [..., *shape] -> [..., A]."""
        if self.spec.num_values is not None:
            return F.one_hot(action.long(), self.spec.num_values).to(dtype)
        leading = action.shape[: action.dim() - len(self.spec.shape)]
        above = action.reshape(*leading, -1) - self.low
        if not self.has_fixed:
            return (above / self.scale - 1.0).to(dtype)
        inside = above / torch.where(self.reach > 0.0, self.scale, 1.0) - 1.0
        return (inside * self.reach).to(dtype)

    def decode(self, action: Tensor) -> Tensor:
        """Model actions [N, A] -> what the environment takes [N, *shape], clipped into its box."""
        if self.spec.is_discrete:
            return action.argmax(-1)
        inside = torch.minimum(self.low + (action.clamp(-1.0, 1.0) + 1.0) * self.scale, self.high)  # despite rounding
        return inside.view(-1, *self.spec.shape)


class LatentModel(nn.Module):
    """A world model without the decoder: what an actor or a planner needs of it.

    Args:
        config: The parts.
        spec: The environment.

    Raises:
        ValueError: The observations or the action do not fit the configuration.
    """

    def __init__(self, config: WorldModelConfig, spec: EnvSpec) -> None:
        super().__init__()
        arch = config.arch
        self.keys = ObservationKeys.of(spec.observation, config.observation)
        self.action = ActionCodec(spec.action, f"the action of {spec.name}")
        self.encoder = Encoder(self.keys, config.observation, arch)
        self.rssm = Rssm(config.rssm, self.encoder.tokens, self.action.size, arch)
        self.reward = ScalarHead(config.reward, self.rssm.features, arch)
        self.continuation: ContinuationHead | None = None
        if config.continuation_layers:
            self.continuation = ContinuationHead(config.continuation_layers, self.rssm.features, arch)

    def filter_posterior(
        self, observation: Mapping[str, Tensor], action: Tensor, is_first: Tensor, state: State, noise: Tensor
    ) -> tuple[State, Tensor]:
        """Stored observations [B, T, ...] to posterior states and statistics; see `Rssm.filter_posterior`."""
        flat = {key: values.flatten(0, 1) for key, values in observation.items()}
        tokens = self.encoder(flat).unflatten(0, is_first.shape)
        return self.rssm.filter_posterior(tokens, action, is_first, state, noise)

    def predict_continuation(self, features: Tensor) -> Tensor:
        """Probability [...] that the episode continues after states [..., D + S]; 1 without such a head."""
        if self.continuation is None:
            return features.new_ones(features.shape[:-1])
        return self.continuation(features).mean  # type: ignore[no-any-return]


class WorldModel(LatentModel):
    """The whole model, which also predicts observations."""

    def __init__(self, config: WorldModelConfig, spec: EnvSpec) -> None:
        super().__init__(config, spec)
        self.decoder = Decoder(self.keys, config.observation, self.rssm.stoch, config.arch)
