"""Configuration of MuZero: MuZero, Gumbel MuZero, Sampled MuZero and EfficientZero are values of these fields.

The defaults are MuZero for Atari (Schrittwieser et al. 2020); `cluster/presets/algorithms` holds the others. How a tree
is searched is the planner's, see `planners.config.MctsConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from envs.numbers import Fraction, NonNegativeFloat, PositiveInt, check_fields
from learner.algorithms.base import Exchange
from learner.models.muzero_config import GaussianConfig, MuZeroModelConfig, MuZeroNetworkConfig, SupportConfig
from learner.optim_config import OptimConfig


@dataclass(frozen=True)
class MuZeroLossConfig:
    """Weights of the losses.

    Args:
        reward: Of the reward, or of the value prefix.
        value: Of the value.
        policy: Of the policy.
        consistency: Of the similarity of predicted and seen latents (Ye et al. 2021); 0 leaves the projection out.
        entropy: Of the policy's entropy, which is a bonus.
    """

    reward: NonNegativeFloat = 1.0
    value: NonNegativeFloat = 0.25
    policy: NonNegativeFloat = 1.0
    consistency: NonNegativeFloat = 0.0
    entropy: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MuZeroConfig:
    """A member of the MuZero family.

    Args:
        name: The preset it came from; every difference is in the other fields and in the planner's.
        observation_keys: Observations to use, () for all.
        network: Sizes of the networks.
        reward: Support of the reward, or of the value prefix.
        value: Support of the value.
        gaussian: The policy where actions are a box.
        losses: Weights of the losses.
        unroll_steps: Steps the model is unrolled, K.
        td_steps: Rewards of a value target, n.
        discount: Of rewards per step; the search has it from here.
        bootstrap: Whether value targets bootstrap from the root values that acting (or reanalysing) searches stored, or
            from the target network's values.
        target_every: Updates after which the target network becomes the network.
        optimizer: Of all networks.
        saturation_limit: Share of saturated targets of an update beyond which a warning is given.
    """

    name: Literal["muzero", "gumbel_muzero", "sampled_muzero", "efficientzero"] = "muzero"
    observation_keys: tuple[str, ...] = ()
    network: MuZeroNetworkConfig = field(default_factory=MuZeroNetworkConfig)
    reward: SupportConfig = field(default_factory=SupportConfig)
    value: SupportConfig = field(default_factory=SupportConfig)
    gaussian: GaussianConfig = field(default_factory=GaussianConfig)
    losses: MuZeroLossConfig = field(default_factory=MuZeroLossConfig)
    unroll_steps: PositiveInt = 5
    td_steps: PositiveInt = 5
    discount: Fraction = 0.997
    bootstrap: Literal["search", "target_network"] = "search"
    target_every: PositiveInt = 100
    optimizer: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            "sgd", 0.05, weight_decay=1e-4, schedule="exponential", decay_steps=350_000, final_lr_fraction=0.1
        )
    )
    saturation_limit: Fraction = 0.01

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def model(self) -> MuZeroModelConfig:
        """Parts of the model."""
        return MuZeroModelConfig(
            self.observation_keys, self.network, self.reward, self.value, self.gaussian, self.losses.consistency > 0.0
        )

    @property
    def context(self) -> int:
        """No steps lead up to the trained ones."""
        return 0

    @property
    def exchange(self) -> Exchange:
        """The error of the root's value is a sequence's priority; the losses take the importance weights."""
        return Exchange(gives=frozenset({"priorities", "targets"}), weights=True)
