"""The model of MuZero (Schrittwieser et al. 2020): representation, dynamics and prediction, and no decoder.

Letters: N rows, D features or channels of a latent, A action size, U units of the value prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from envs.specs import EnvSpec
from learner.models.distributions import BoundedNormal, OneHot, Policy
from learner.models.muzero_config import MuZeroModelConfig, MuZeroNetworkConfig, PrefixConfig
from learner.models.muzero_network import Dynamics, Head, Outputs, Projection, Reduce, Representation
from learner.models.muzero_scalar import Scalar, support_bins
from learner.models.observation import ObservationKeys
from learner.models.observation_config import ObservationConfig
from learner.models.world_model import ActionCodec


class Latent(NamedTuple):
    """What the model knows of a state: the dynamics' own, and the memory of the value prefix."""

    state: Tensor  # [N, D, ...] in [0, 1]
    memory: Tensor  # [N, 2 U + 2] hidden and cell of the LSTM, sum of rewards so far, steps; [N, 0] without a prefix


class MuZeroModel(nn.Module):
    """See the module.

    Args:
        config: The parts.
        spec: The environment.

    Raises:
        ValueError: The observations or the action do not fit.
    """

    reward_bins: Tensor
    value_bins: Tensor

    def __init__(self, config: MuZeroModelConfig, spec: EnvSpec) -> None:
        super().__init__()
        self.config, network = config, config.network
        seen = ObservationConfig(config.keys, multipliers=(1,) * network.reductions)
        self.keys = ObservationKeys.of(spec.observation, seen)
        self.action = ActionCodec(spec.action)
        self.discrete = spec.action.is_discrete
        self.representation = Representation(self.keys, network)
        shape = self.representation.shape
        self.dynamics = Dynamics(shape, self.action.size, network)
        make_reward = RewardHead if network.prefix is None else PrefixHead
        self.reward = make_reward(shape, config.reward.bins, network)
        self.value = Head(shape, config.value.bins, network)
        self.policy = Head(shape, self.action.size * (1 if self.discrete else 2), network)
        size = 1
        for side in shape:
            size *= side
        self.projection = Projection(size, network) if config.consistency else None
        self.register_buffer("reward_bins", support_bins(config.reward), persistent=False)
        self.register_buffer("value_bins", support_bins(config.value), persistent=False)

    def represent(self, observation: Mapping[str, Tensor]) -> Latent:
        """Raw observations [N, ...] -> latents [N, ...] with an empty memory."""
        state = self.representation(observation)
        return Latent(state, self.reward.initial(state))

    def blank(self, rows: int) -> Latent:
        """Latents [rows, ...] of zeros."""
        state = self.value_bins.new_zeros(rows, *self.representation.shape)
        return Latent(state, self.reward.initial(state))

    def step(self, latent: Latent, action: Tensor) -> tuple[Latent, Scalar]:
        """Latents and actions [N, A] -> the next latents, and the reward or the value prefix of the step [N]."""
        state = self.dynamics.forward(latent.state, action)
        logits, memory = self.reward.forward(state, latent.memory)
        predicted = self.scalar_reward(logits)
        return Latent(state, self.reward.remember(memory, predicted)), predicted

    def received(self, before: Latent, predicted: Scalar) -> Tensor:
        """The reward [N] of a step from `before` by what `step` predicts."""
        return predicted.mean - self.reward.prefix(before.memory)

    def scalar_reward(self, logits: Tensor) -> Scalar:
        """The reward or the value prefix [...] of logits [..., K]."""
        return Scalar(logits, self.reward_bins, self.config.reward)

    def scalar_value(self, logits: Tensor) -> Scalar:
        """The value [...] of logits [..., K]."""
        return Scalar(logits, self.value_bins, self.config.value)

    def distribution(self, out: Tensor) -> Policy:
        """The policy over actions [..., A] of what its head says; one-hot where actions are ids."""
        if self.discrete:
            return OneHot(out)
        mean, std = (out if out.dtype == torch.float64 else out.float()).chunk(2, -1)
        return BoundedNormal(mean, std, self.config.gaussian.min_std, self.config.gaussian.max_std)

    def predict(self, state: Tensor) -> tuple[Policy, Scalar]:
        """Policy and value of latents [N, D, ...]."""
        return self.distribution(self.policy.forward(state)), self.scalar_value(self.value.forward(state))


class RewardHead(nn.Module):
    """The reward of the step to a latent."""

    def __init__(self, shape: tuple[int, ...], bins: int, config: MuZeroNetworkConfig) -> None:
        super().__init__()
        self.head = Head(shape, bins, config)

    def initial(self, state: Tensor) -> Tensor:
        """No memory [N, 0]."""
        return state.new_zeros(len(state), 0)

    def forward(self, state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K] and the memory."""
        return self.head.forward(state), memory

    def unroll(self, states: Tensor) -> Tensor:
        """Logits [T, N, K] of T steps from a root on, to states [T, N, D, ...]."""
        return self.head.forward(states.flatten(0, 1)).view(*states.shape[:2], -1)

    def remember(self, memory: Tensor, predicted: Scalar) -> Tensor:
        """The memory."""
        return memory

    def prefix(self, memory: Tensor) -> float | Tensor:
        """What a prediction includes of earlier rewards: nothing."""
        return 0.0


class PrefixHead(nn.Module):
    """The sum of the rewards since the root, or since the memory last began anew; see `PrefixConfig`."""

    def __init__(self, shape: tuple[int, ...], bins: int, config: MuZeroNetworkConfig) -> None:
        super().__init__()
        assert config.prefix is not None
        self.config: PrefixConfig = config.prefix
        self.reduce = Reduce(shape, config)
        self.cell = nn.LSTMCell(self.reduce.width, self.config.units)
        self.outputs = Outputs(self.config.units, bins, config)

    def initial(self, state: Tensor) -> Tensor:
        """An empty memory [N, 2 U + 2]."""
        return state.new_zeros(len(state), 2 * self.config.units + 2)

    def forward(self, state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, K] of the prefix and the memory after the step, without the new sum."""
        units = self.config.units
        memory = self._current(memory)
        hidden, cell = self.cell(self.reduce.forward(state), (memory[:, :units], memory[:, units : 2 * units]))
        rest = memory[:, 2 * units :]
        return self.outputs.forward(hidden), torch.cat([hidden, cell, rest + rest.new_tensor([0.0, 1.0])], 1)

    def unroll(self, states: Tensor) -> Tensor:
        """Logits [T, N, K] of T steps from a root on, to states [T, N, D, ...]."""
        inputs = self.reduce.forward(states.flatten(0, 1)).view(*states.shape[:2], -1)
        hiddens, carried = [], None
        for step, x in enumerate(inputs.unbind(0)):
            carried = self.cell(x, carried if step % self.config.horizon else None)
            hiddens.append(carried[0])
        return self.outputs.forward(torch.stack(hiddens).flatten(0, 1)).view(*states.shape[:2], -1)

    def remember(self, memory: Tensor, predicted: Scalar) -> Tensor:
        """The memory with the new sum."""
        units = self.config.units
        return torch.cat([memory[:, : 2 * units], predicted.mean.to(memory.dtype)[:, None], memory[:, -1:]], 1)

    def prefix(self, memory: Tensor) -> Tensor:
        """The sum [N] that the next prediction includes."""
        return self._current(memory)[:, -2]

    def _current(self, memory: Tensor) -> Tensor:
        """The memory, empty where its horizon is reached."""
        return torch.where(memory[:, -1:] >= self.config.horizon, torch.zeros_like(memory), memory)
