"""Configuration of the Dreamer family: PlaNet, Dreamer v1, v2 and v3 are values of these fields.

The defaults are DreamerV3 (Hafner et al. 2025); `cluster/presets/algorithms` holds the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from envs.numbers import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, check_fields
from learner.algorithms.base import Exchange
from learner.models.observation_config import ObservationConfig
from learner.models.rssm_config import RssmConfig
from learner.models.sizes import SIZES, ActivationName, Architecture, Dimensions, NormName, SizeName
from learner.models.world_model_config import DisagreementConfig, PolicyConfig, ScalarConfig, WorldModelConfig
from learner.optim_config import OptimConfig


@dataclass(frozen=True)
class WorldLossConfig:
    """Weights of the world model's losses.

    Args:
        reconstruction: Of the observations.
        reward: Of the reward.
        continuation: Of the continuation; 0 leaves the head out, and imagined episodes never end.
        dynamics: Of the KL that pulls the prior to the posterior.
        representation: Of the KL that pulls the posterior to the prior.
        free_nats: KL below which neither pulls.
        free_nats_of: Whether that holds for each step's KL or for the mean over the batch.
        consistency: Of the KL between states predicted over several steps and the posterior; 0 for none.
        consistency_steps: How many steps ahead those are predicted.
    """

    reconstruction: NonNegativeFloat = 1.0
    reward: NonNegativeFloat = 1.0
    continuation: NonNegativeFloat = 1.0
    dynamics: NonNegativeFloat = 1.0
    representation: NonNegativeFloat = 0.1
    free_nats: NonNegativeFloat = 1.0
    free_nats_of: Literal["step", "batch"] = "step"
    consistency: NonNegativeFloat = 0.0
    consistency_steps: PositiveInt = 3

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class BehaviourConfig:
    """How actor and critic learn from imagination.

    Args:
        horizon: Imagined steps from every state, H.
        discount: Discount of rewards per step.
        discount_in_continuation: Whether the continuation head learns to predict the discount too.
        lambda_: Decay of the lambda-returns.
        reinforce: Share of the REINFORCE gradient; the rest is the gradient through the dynamics.
        entropy: Weight of the policy's entropy.
        critic: Weight of the critic's loss on imagined returns.
        normalise_returns: Whether advantages are divided by a range of returns.
        return_rate: Rate of the moving average of that range.
        return_percentiles: Its ends.
        return_limit: Smallest range that is divided by.
        slow_rate: Share of the critic that moves into the slow critic.
        slow_every: Updates between two such moves.
        slow_target: Whether returns bootstrap from the slow critic.
        slow_regulariser: Weight of the loss that keeps the critic near the slow one.
        replay_value: Weight of the critic's loss on replayed rewards.
        value_gradient_to_model: Whether that loss also trains the world model.
    """

    horizon: PositiveInt = 15
    discount: Fraction = 1.0 - 1.0 / 333.0
    discount_in_continuation: bool = True
    lambda_: Fraction = 0.95
    reinforce: Fraction = 1.0
    entropy: NonNegativeFloat = 3e-4
    critic: PositiveFloat = 1.0
    normalise_returns: bool = True
    return_rate: Fraction = 0.01
    return_percentiles: tuple[float, float] = (5.0, 95.0)
    return_limit: PositiveFloat = 1.0
    slow_rate: Fraction = 0.02
    slow_every: PositiveInt = 1
    slow_target: bool = False
    slow_regulariser: NonNegativeFloat = 1.0
    replay_value: NonNegativeFloat = 0.3
    value_gradient_to_model: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        low, high = self.return_percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"return_percentiles must ascend within [0, 100], got {self.return_percentiles}")


@dataclass(frozen=True)
class DreamerConfig:
    """A member of the Dreamer family.

    Args:
        name: The preset it came from; every difference is in the other fields.
        size: Nominal size of the networks.
        dimensions: Sizes instead of those of `size`.
        norm: Norm of all hidden layers.
        act: Activation of all hidden layers.
        observation: Encoder and decoder.
        rssm: Latent dynamics.
        reward: Reward head.
        continuation_layers: Hidden layers of the continuation head.
        value: Critic.
        policy: Actor.
        losses: Weights of the world model's losses.
        behaviour: How actor and critic learn, None for a world model alone (PlaNet).
        acting: Whether actions come from the actor or from a planner in latent space.
        first_actions: Whether the policy acts before the first published weights with those that the learner starts
            with, or at random, which stores states of zeros.
        store_latents: Whether latent states are stored in the replay to start later sequences from.
        plan2explore: Intrinsic reward, None for none.
        optimizer: Of the world model, and of all that has no optimiser of its own.
        actor_optimizer: Of the actor, None to share `optimizer`.
        critic_optimizer: Of the critic, None to share `optimizer`.
        exploration_noise: Standard deviation of Gaussian noise on explored actions, or the share of random actions
            of discrete policies.
        compile: Whether imagined steps are compiled with torch.compile, which needs a C++ compiler on a CPU.
    """

    name: Literal["planet", "dreamer_v1", "dreamer_v2", "dreamer_v3"] = "dreamer_v3"
    size: SizeName = "12m"
    dimensions: Dimensions | None = None
    norm: NormName = "rms"
    act: ActivationName = "silu"
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    rssm: RssmConfig = field(default_factory=RssmConfig)
    reward: ScalarConfig = field(default_factory=ScalarConfig)
    continuation_layers: PositiveInt = 1
    value: ScalarConfig = field(default_factory=lambda: ScalarConfig(layers=3))
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    losses: WorldLossConfig = field(default_factory=WorldLossConfig)
    behaviour: BehaviourConfig | None = field(default_factory=BehaviourConfig)
    acting: Literal["actor", "planner"] = "actor"
    first_actions: Literal["policy", "random"] = "policy"
    store_latents: bool = True
    plan2explore: DisagreementConfig | None = None
    optimizer: OptimConfig = field(
        default_factory=lambda: OptimConfig("laprop", 4e-5, (0.9, 0.999), 1e-20, warmup_steps=1000, agc=0.3)
    )
    actor_optimizer: OptimConfig | None = None
    critic_optimizer: OptimConfig | None = None
    exploration_noise: NonNegativeFloat = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.behaviour is None and self.acting == "actor":
            raise ValueError("acting 'actor' needs a behaviour; without one, acting must be 'planner'")
        if self.behaviour is None and self.plan2explore is not None:
            raise ValueError("plan2explore needs a behaviour to learn")

    @property
    def sizes(self) -> Dimensions:
        """The sizes in use."""
        return self.dimensions or SIZES[self.size]

    @property
    def arch(self) -> Architecture:
        """What all networks share."""
        return Architecture(self.sizes, self.norm, self.act)

    @property
    def world_model(self) -> WorldModelConfig:
        """Parts of the world model."""
        layers = self.continuation_layers if self.losses.continuation > 0.0 else 0
        return WorldModelConfig(self.arch, self.observation, self.rssm, self.reward, layers)

    @property
    def exchange(self) -> Exchange:
        """Latent states go back to the replay if they are stored."""
        return Exchange(gives=frozenset({"writebacks"} if self.store_latents else ()))

    @property
    def context(self) -> int:
        """Leading steps of a sampled sequence whose stored latents only start the rest."""
        return int(self.store_latents)
