"""What a run's configuration says of one role: the sections `roles.<role>`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from envs.numbers import NonNegativeFloat, NonNegativeInt, PositiveInt, check_fields

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@dataclass(frozen=True)
class ActorConfig:
    """What each actor of a role reserves, and where."""

    cpus: NonNegativeFloat = 1.0  # logical CPUs
    gpus: NonNegativeFloat | None = 0.0  # None takes one each if the cluster has enough when the run starts
    memory: NonNegativeInt = 0  # bytes, 0 reserves none
    resources: dict[str, NonNegativeFloat] = field(default_factory=dict)  # of the cluster's own kinds
    labels: dict[str, str] = field(default_factory=dict)  # of the nodes it may run on, as Ray's label selectors
    strategy: Strategy = "SPREAD"  # how Ray places the actors of the role over the nodes
    timeout_seconds: NonNegativeFloat = 60.0  # an actor that has not answered for longer is replaced; 0 waits for ever

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RoleConfig(ActorConfig):
    """A role whose number of actors is chosen here."""

    count: Annotated[int, Ge(1), Le(1 << 16)] = 1  # actors


@dataclass(frozen=True)
class OptionalRoleConfig(RoleConfig):
    """A role that a run can do without."""

    count: Annotated[int, Ge(0), Le(1 << 16)] = 1  # actors


@dataclass(frozen=True)
class ServingConfig(RoleConfig):
    """A role that acts for rollout actors, in batches."""

    count: Annotated[int, Ge(0), Le(1 << 16)] = 1  # actors; 0 runs the policy inside the rollout actors
    max_rows: PositiveInt = 64  # environments that an actor gathers at most
    max_wait_ms: NonNegativeFloat = 2.0  # how long the first of them waits for more
