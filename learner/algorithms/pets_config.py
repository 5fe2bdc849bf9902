"""Configuration of PETS: an ensemble and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from envs.numbers import check_fields
from learner.algorithms.base import Exchange
from learner.bootstrap import Kind
from learner.early_stopping import EarlyStoppingConfig
from learner.losses.ensemble_config import EnsembleLossConfig
from learner.models.ensemble_config import EnsembleConfig
from learner.optim_config import OptimConfig

Share = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class PetsConfig:
    """An ensemble and how it is trained.

    Args:
        name: The algorithm.
        observation_key: Observation that is the state; it is flattened.
        ensemble: Shape of the model.
        loss: Terms of the loss.
        optimizer: How the members are optimised.
        early_stopping: When updating pauses.
        bootstrap: How the members' training sets differ: "poisson", "bernoulli" or "none".
        validation_fraction: Share of the episodes that is held out.
        average_decay: Decay of the moving average of the weights that is evaluated and exported, 0 for none.
    """

    name: Literal["pets"] = "pets"
    observation_key: str = "state"
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
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
