"""The recurrent state-space model (Hafner et al. 2019) with Gaussian or categorical latents.

A state is a deterministic part, carried by a recurrent cell, and a stochastic part. The prior predicts the stochastic
part from the deterministic one; the posterior also depends on the observation's tokens.

Letters: B sequences, T steps, N rows, D deterministic features, S stochastic features, G latent groups, C classes,
E token features, A action size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.models.distributions import Normal, OneHot, widened
from learner.models.layers import (
    ACTIVATIONS,
    Dense,
    GroupedLinear,
    Linear,
    Mlp,
    UnrolledLinear,
    join,
    make_norm,
    normalise,
    split,
    unrolled,
)
from learner.models.rssm_config import RssmConfig
from learner.models.sizes import Architecture

LATENT_KEYS = ("latent_deter", "latent_stoch")
"""Keys under which the two parts of a state are stored in the replay."""


class State(NamedTuple):
    """A latent state of any leading axes."""

    deter: Tensor  # [..., D]
    stoch: Tensor  # [..., S] one-hot groups, or values

    @property
    def features(self) -> Tensor:
        """[..., D + S]."""
        return torch.cat([self.deter, self.stoch], -1)

    def map(self, function: Callable[[Tensor], Tensor]) -> State:
        """The state with `function` of each part."""
        return State(function(self.deter), function(self.stoch))


class Latent(Protocol):
    """Distribution of the stochastic part."""

    def sample(self, noise: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...
    def detach(self) -> Any: ...
    def kl(self, other: Any) -> Tensor: ...


class CategoricalLatent(OneHot):
    """G categoricals of C classes, from logits [..., G, C]."""

    def sample(self, noise: Tensor) -> Tensor:
        """[..., G * C] from noise [..., G] uniform in [0, 1); straight-through gradients."""
        return super().sample(noise).flatten(-2)

    def entropy(self) -> Tensor:
        """[...] in nats, summed over groups."""
        return super().entropy().sum(-1)

    def kl(self, other: CategoricalLatent) -> Tensor:
        """KL(self || other) [...] in nats, summed over groups; both with their share of the uniform distribution."""
        return (self.probs * (self.log_probs - other.log_probs)).sum((-2, -1))


class GaussianLatent(Normal):
    """S independent normals."""

    def detach(self) -> GaussianLatent:
        return GaussianLatent(self.mean.detach(), self.std.detach())

    def kl(self, other: GaussianLatent) -> Tensor:
        """KL(self || other) [...] in nats."""
        ratio = (self.std / other.std).square()
        shift = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (ratio + shift - 1.0 - ratio.log()).sum(-1)


class Rssm(nn.Module):
    """See the module.

    Args:
        config: Kind and shape.
        tokens: Features of an observation's tokens, E.
        action: Action size, A.
        arch: Sizes, norm and activation.
    """

    def __init__(self, config: RssmConfig, tokens: int, action: int, arch: Architecture) -> None:
        super().__init__()
        self.config, self.classes = config, arch.sizes.classes
        self.deter, hidden = arch.sizes.deter, arch.sizes.hidden
        categorical = config.latent == "categorical"
        self.stoch = config.groups * (self.classes if categorical else 1)
        self.features = self.deter + self.stoch
        statistics = self.stoch if categorical else 2 * self.stoch
        self.cell: BlockGru | Gru
        if config.cell == "block_gru":
            self.cell = BlockGru(self.stoch, action, config, arch)
        else:
            self.cell = Gru(self.stoch, action, config, arch)
        self.prior_net = Mlp(self.deter, hidden, config.prior_layers, arch)
        self.prior_out = Linear(hidden, statistics)
        self.posterior_net = Mlp(self.deter + tokens, hidden, config.posterior_layers, arch)
        self.posterior_out = Linear(hidden, statistics)

    def initial(self, rows: int) -> State:
        """The state before an episode: zeros."""
        like = self.prior_out.weight
        return State(like.new_zeros(rows, self.deter), like.new_zeros(rows, self.stoch))

    def pack(self, state: State) -> dict[str, Tensor]:
        """States as the replay stores them: float16 numbers, and uint8 ids [..., G] of categorical latents."""
        stoch = state.stoch.to(torch.float16)
        if self.config.latent == "categorical":
            stoch = self._split_groups(stoch).argmax(-1).to(torch.uint8)
        return dict(zip(LATENT_KEYS, (state.deter.to(torch.float16), stoch), strict=True))

    def unpack(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> State:
        """The reverse of `pack`."""
        deter, stoch = (stored[key] for key in LATENT_KEYS)
        if self.config.latent == "categorical":
            stoch = F.one_hot(stoch.long(), self.classes).flatten(-2)
        return State(deter.to(dtype), stoch.to(dtype))

    def latent(self, statistics: Tensor) -> Latent:
        """The distribution of a prior's or a posterior's statistics [..., statistics]."""
        config = self.config
        if config.latent == "categorical":
            return CategoricalLatent(self._split_groups(statistics), config.unimix)
        mean, std = widened(statistics).chunk(2, -1)
        return GaussianLatent(mean, F.softplus(std) + config.min_std)

    def prior(self, deter: Tensor) -> Tensor:
        """Statistics [..., statistics] of the stochastic part given deter [..., D], without an observation."""
        return self.prior_out(self.prior_net(deter))  # type: ignore[no-any-return]

    def _split_groups(self, stoch: Tensor) -> Tensor:
        """[..., G * C] as [..., G, C]."""
        return stoch.view(*stoch.shape[:-1], self.config.groups, self.classes)

    def filter_posterior(
        self, tokens: Tensor, action: Tensor, is_first: Tensor, state: State, noise: Tensor
    ) -> tuple[State, Tensor]:
        """The posterior along sequences, each step's from the observations until then.

        Args:
            tokens: [B, T, E] of the observations.
            action: [B, T, A] that led to each observation; ignored where `is_first`.
            is_first: [B, T] where the state and the action before are reset to zeros.
            state: [B, ...] before the first step.
            noise: [B, T, ...] for the latents, see their `sample`.

        Returns:
            States [B, T, ...] and the posterior's statistics [B, T, statistics].
        """
        first, *rest = self.posterior_net
        assert isinstance(first, Dense)
        deter_weight, token_weight = first.linear.weight.tensor_split([self.deter], dim=1)
        from_tokens = F.linear(tokens.transpose(0, 1), token_weight, first.linear.bias)
        keep = (~is_first).to(tokens.dtype).unsqueeze(-1)
        embedded = self.cell.embed_action(action * keep).unbind(1)
        shape = is_first.shape[1], is_first.shape[0]
        cell, posterior_out = unrolled(self.cell, *shape), unrolled(self.posterior_out, *shape)
        first_linear, rest = UnrolledLinear(from_tokens, deter_weight), [unrolled(layer, *shape) for layer in rest]
        deter, stoch = state
        deters, stochs, statistics = [], [], []
        for t, (kept, eps) in enumerate(zip(keep.unbind(1), noise.unbind(1), strict=True)):
            deter = cell(deter * kept, stoch * kept, embedded[t])
            x = first.finish(first_linear(deter))
            for layer in rest:
                x = layer(x)
            statistics.append(posterior_out(x))
            stoch = self.latent(statistics[-1]).sample(eps).to(deter.dtype)
            deters.append(deter)
            stochs.append(stoch)
        return State(torch.stack(deters, 1), torch.stack(stochs, 1)), torch.stack(statistics, 1)

    def step(self, state: State, action: Tensor, noise: Tensor) -> State:
        """One step of the prior: action [N, A], noise [N, ...] as for the latents' `sample`."""
        deter = self.cell(state.deter, state.stoch, self.cell.embed_action(action))
        return State(deter, self.latent(self.prior(deter)).sample(noise).to(deter.dtype))


class BlockGru(nn.Module):
    """The GRU with block-diagonal recurrent weights (Hafner et al. 2025, Methods).

    Args:
        stoch: S.
        action: A.
        config: Groups of the weights, and the bias of the update gate.
        arch: Sizes, norm and activation.
    """

    def __init__(self, stoch: int, action: int, config: RssmConfig, arch: Architecture) -> None:
        super().__init__()
        deter, hidden, blocks = arch.sizes.deter, arch.sizes.hidden, config.blocks
        self.deter_in = Dense(deter, hidden, arch)
        self.stoch_in = Dense(stoch, hidden, arch)
        self.action_in = Dense(action, hidden, arch)
        self.hidden = GroupedLinear(deter, deter, blocks, shared=3 * hidden)
        self.norm = make_norm(arch.norm, deter)
        self.act = ACTIVATIONS[arch.act]
        self.gates = GroupedLinear(deter, 3 * deter, blocks)
        self._blocks, self._update_bias = blocks, config.update_bias

    def embed_action(self, action: Tensor) -> Tensor:
        """Actions [..., A] as `forward` takes them: clipped to magnitude 1, through a layer."""
        return self.action_in(clip_action(action))  # type: ignore[no-any-return]

    def forward(self, deter: Tensor, stoch: Tensor, embedded: Tensor) -> Tensor:
        """The next deter [N, D] from deter [N, D], stoch [N, S] and `embed_action` of the actions [N, A]."""
        shared = torch.cat([self.deter_in(deter), self.stoch_in(stoch), embedded], -1)
        x = normalise(self.norm, self.act, self.hidden(deter, shared))
        reset, candidate, update = self.gates.by_group(x).chunk(3, -1)
        proposal = torch.tanh(torch.sigmoid(reset) * candidate)
        return join(_updated(split(deter, self._blocks), proposal, update + self._update_bias))


class Gru(nn.Module):
    """A GRU after a layer for the stochastic part and the action.

    Its gates may have a norm, and then the reset gate multiplies the whole candidate (Hafner et al. 2021); or it
    multiplies what the candidate takes from the memory (Hafner et al. 2020, with the GRU of Keras).

    Args:
        stoch: S.
        action: A.
        config: Norm and reset of the gates, and the bias of the update gate.
        arch: Sizes, norm and activation.

    Raises:
        ValueError: A norm over gates of which a part is reset.
    """

    def __init__(self, stoch: int, action: int, config: RssmConfig, arch: Architecture) -> None:
        super().__init__()
        deter, hidden = arch.sizes.deter, arch.sizes.hidden
        norm = config.gru_norm or arch.norm
        self.input = Dense(stoch + action, hidden, arch)
        self.memory: Linear | None = None
        if config.reset == "memory":
            if norm != "none":
                raise ValueError(f"rssm.reset 'memory' needs rssm.gru_norm 'none', got {norm!r}")
            self.memory = Linear(deter, 3 * deter)
        self.gates = Linear(hidden if self.memory else hidden + deter, 3 * deter)
        self.norm = make_norm(norm, 3 * deter)
        self._update_bias = config.update_bias

    def embed_action(self, action: Tensor) -> Tensor:
        """Actions [..., A] as `forward` takes them: clipped to magnitude 1."""
        return clip_action(action)

    def forward(self, deter: Tensor, stoch: Tensor, embedded: Tensor) -> Tensor:
        """The next deter [N, D] from deter [N, D], stoch [N, S] and `embed_action` of the actions [N, A]."""
        x = self.input(torch.cat([stoch, embedded], -1))
        if self.memory is None:
            reset, candidate, update = self.norm(self.gates(torch.cat([x, deter], -1))).chunk(3, -1)
            proposal = torch.tanh(torch.sigmoid(reset) * candidate)
        else:
            reset, candidate, update = self.gates(x).chunk(3, -1)
            kept_reset, kept_candidate, kept_update = self.memory(deter).chunk(3, -1)
            proposal = torch.tanh(candidate + torch.sigmoid(reset + kept_reset) * kept_candidate)
            update = update + kept_update
        return _updated(deter, proposal, update + self._update_bias)


def clip_action(action: Tensor) -> Tensor:
    """Actions scaled down to magnitude 1 where they are larger; without a gradient through the scale."""
    return action / action.detach().abs().clamp(min=1.0)


def _updated(deter: Tensor, proposal: Tensor, update: Tensor) -> Tensor:
    """The memory moved toward a proposal by an update gate, before its sigmoid."""
    return torch.lerp(deter, proposal.to(deter.dtype), torch.sigmoid(update).to(deter.dtype))
