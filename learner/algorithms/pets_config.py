"""Configuration of PETS and of the other one-step models: members, perhaps a coder, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from envs.numbers import check_fields
from learner.algorithms.base import Exchange
from learner.bootstrap import Kind
from learner.early_stopping import EarlyStoppingConfig
from learner.losses.ensemble_config import EnsembleLossConfig
from learner.models.coder_config import CoderConfig
from learner.models.ensemble_config import EnsembleConfig
from learner.optim_config import OptimConfig

PetsName = Literal[
    "pets",
    "mlp",
    "ensemble",
    "stochastic",
    "stochastic_ensemble",
    "vae_dynamics",
    "latent",
    "creature_latent",
    "visual",
]
"""Names of the presets; the settings alone say what a model is."""
Share = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class PetsConfig:
    """An ensemble and how it is trained.

    Args:
        name: The algorithm.
        observation_key: Observation that is the state, or that is coded; it is flattened.
        ensemble: Shape of the members.
        coder: Shape of what turns the observation into the latent that the members predict; None predicts the
            observation itself.
        loss: Terms of the loss.
        optimizer: How the members are optimised.
        early_stopping: When updating pauses.
        bootstrap: How the members' training sets differ: "poisson", "bernoulli" or "none".
        validation_fraction: Share of the episodes that is held out.
        average_decay: Decay of the moving average of the weights that is evaluated and exported, 0 for none.
    """

    name: PetsName = "pets"
    observation_key: str = "state"
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    coder: CoderConfig | None = None
    loss: EnsembleLossConfig = field(default_factory=EnsembleLossConfig)
    optimizer: OptimConfig = field(default_factory=OptimConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    bootstrap: Kind = "poisson"
    validation_fraction: Share = 0.1
    average_decay: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.early_stopping.patience > 0 and self.validation_fraction == 0.0:
            raise ValueError("early stopping needs a validation_fraction above 0")

    @property
    def context(self) -> int:
        """Leading steps of a sampled sequence that only start the rest: none."""
        return 0

    @property
    def exchange(self) -> Exchange:
        """The error of every sequence is its priority, if priorities are wanted."""
        return Exchange(gives=frozenset({"priorities"}), weights=True)
