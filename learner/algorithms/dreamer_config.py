"""Configuration of the Dreamer family: PlaNet, Dreamer v1, v2 and v3 are values of these fields.

The defaults are DreamerV3 (Hafner et al. 2025); `cluster/presets/algorithms` holds the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from learner.algorithms.base import Exchange
from learner.models.dimensions import SIZES, Dimensions, SizeName
from learner.models.heads import PolicyConfig, ScalarConfig
from learner.models.layers import ActivationName, NormName
from learner.models.observation import ObservationConfig
from learner.models.rssm import RssmConfig
from learner.optim import OptimConfig


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

    reconstruction: float = 1.0
    reward: float = 1.0
    continuation: float = 1.0
    dynamics: float = 1.0
    representation: float = 0.1
    free_nats: float = 1.0
    free_nats_of: Literal["step", "batch"] = "step"
    consistency: float = 0.0
    consistency_steps: int = 3

    def __post_init__(self) -> None:
        for name in (
            "reconstruction",
            "reward",
            "continuation",
            "dynamics",
            "representation",
            "free_nats",
            "consistency",
        ):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.free_nats_of not in ("step", "batch"):
            raise ValueError(f"free_nats_of must be 'step' or 'batch', got {self.free_nats_of!r}")
        if self.consistency_steps < 1:
            raise ValueError(f"consistency_steps must be at least 1, got {self.consistency_steps}")


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

    horizon: int = 15
    discount: float = 1.0 - 1.0 / 333.0
    discount_in_continuation: bool = True
    lambda_: float = 0.95
    reinforce: float = 1.0
    entropy: float = 3e-4
    normalise_returns: bool = True
    return_rate: float = 0.01
    return_percentiles: tuple[float, float] = (5.0, 95.0)
    return_limit: float = 1.0
    slow_rate: float = 0.02
    slow_every: int = 1
    slow_target: bool = False
    slow_regulariser: float = 1.0
    replay_value: float = 0.3
    value_gradient_to_model: bool = True

    def __post_init__(self) -> None:
        for name in ("horizon", "slow_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("discount", "lambda_", "reinforce", "return_rate", "slow_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("entropy", "slow_regulariser", "replay_value"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.return_limit > 0.0:
            raise ValueError(f"return_limit must be positive, got {self.return_limit}")
        low, high = self.return_percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"return_percentiles must ascend within [0, 100], got {self.return_percentiles}")


@dataclass(frozen=True)
class DisagreementConfig:
    """Plan2Explore (Sekar et al. 2020): an intrinsic reward for states where one-step predictors disagree.

    Args:
        members: Predictors.
        layers: Hidden layers of each.
        intrinsic: Weight of the disagreement in the reward of imagination.
        extrinsic: Weight of the predicted reward.
    """

    members: int = 8
    layers: int = 2
    intrinsic: float = 1.0
    extrinsic: float = 0.0

    def __post_init__(self) -> None:
        if self.members < 2 or self.layers < 1:
            raise ValueError(f"members must be at least 2 and layers 1, got {self.members} and {self.layers}")
        if not (self.intrinsic >= 0.0 and self.extrinsic >= 0.0):
            raise ValueError(f"weights must not be negative, got {self.intrinsic} and {self.extrinsic}")


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
    continuation_layers: int = 1
    value: ScalarConfig = field(default_factory=lambda: ScalarConfig(layers=3))
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    losses: WorldLossConfig = field(default_factory=WorldLossConfig)
    behaviour: BehaviourConfig | None = field(default_factory=BehaviourConfig)
    acting: Literal["actor", "planner"] = "actor"
    store_latents: bool = True
    plan2explore: DisagreementConfig | None = None
    optimizer: OptimConfig = field(
        default_factory=lambda: OptimConfig("laprop", 4e-5, (0.9, 0.999), 1e-20, warmup_steps=1000, agc=0.3)
    )
    actor_optimizer: OptimConfig | None = None
    critic_optimizer: OptimConfig | None = None
    exploration_noise: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size must be one of {list(SIZES)}, got {self.size!r}")
        if self.acting not in ("actor", "planner"):
            raise ValueError(f"acting must be 'actor' or 'planner', got {self.acting!r}")
        if self.behaviour is None and self.acting == "actor":
            raise ValueError("acting 'actor' needs a behaviour; without one, acting must be 'planner'")
        if self.behaviour is None and self.plan2explore is not None:
            raise ValueError("plan2explore needs a behaviour to learn")
        if self.continuation_layers < 1:
            raise ValueError(f"continuation_layers must be at least 1, got {self.continuation_layers}")
        if not self.exploration_noise >= 0.0:
            raise ValueError(f"exploration_noise must not be negative, got {self.exploration_noise}")

    @property
    def sizes(self) -> Dimensions:
        """The sizes in use."""
        return SIZES[self.size] if self.dimensions is None else self.dimensions

    @property
    def exchange(self) -> Exchange:
        """Latent states go back to the replay if they are stored."""
        return Exchange(gives=frozenset({"writebacks"} if self.store_latents else ()))

    @property
    def context(self) -> int:
        """Leading steps of a sampled sequence whose stored latents only start the rest."""
        return int(self.store_latents)
