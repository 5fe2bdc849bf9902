"""The ways to draw from the replay, as configurations, and what has to be known of each.

To add one: its configuration and its record in this file, and the selector in a file of its own (see
docs/extending/selector.md). Nothing elsewhere asks which one it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from envs.names import nearest
from envs.numbers import Fraction, NonNegativeFloat, check_fields

if TYPE_CHECKING:
    from actors.replay.draw.selectors import Selector
    from actors.replay.store.chunks import ChunkStore

TREE_BYTES = 18
"""Memory per step of capacity of a selector that keeps a sum tree: its density, its leaf and the sums above."""


@dataclass(frozen=True)
class UniformConfig:
    """Every valid start alike."""

    kind: Literal["uniform"] = "uniform"
    weight_exponent: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PrioritizedConfig:
    """In proportion to priority^exponent (Schaul et al. 2016, equation 1).

    Args:
        kind: The selector.
        exponent: Alpha; 0 makes it uniform.
        weight_exponent: Beta of the importance weights (N * probability)^-beta.
    """

    kind: Literal["prioritized"] = "prioritized"
    exponent: NonNegativeFloat = 0.6
    weight_exponent: NonNegativeFloat = 0.4

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RecencyConfig:
    """With a preference for newer steps.

    Args:
        kind: The selector.
        exponent: A step as old as a shard is large is e^exponent times less likely than the newest; 0 makes it uniform.
        weight_exponent: Beta of the importance weights; 0 leaves the preference as it is.
    """

    kind: Literal["recency"] = "recency"
    exponent: NonNegativeFloat = 1.0
    weight_exponent: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class FifoConfig:
    """Every start once, in the order of insertion; uniform when none is left."""

    kind: Literal["fifo"] = "fifo"
    weight_exponent: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class OldestConfig:
    """Every start in turn, over and over: the one that was not drawn for longest comes first, new ones last."""

    kind: Literal["oldest"] = "oldest"
    weight_exponent: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


PartConfig = UniformConfig | PrioritizedConfig | RecencyConfig | FifoConfig | OldestConfig
"""What a mixture can be made of."""


@dataclass(frozen=True)
class MixtureConfig:
    """Several of the others.

    Args:
        kind: The selector.
        fractions: Share of the sequences by kind; they sum to 1.
        parts: Settings by kind, of those that are not at their defaults.
        online: Whether every new sequence is first drawn once, in order of arrival; the mixture fills the rest.
    """

    kind: Literal["mixture"] = "mixture"
    fractions: dict[str, Fraction] = field(default_factory=lambda: {"uniform": 1.0})
    parts: dict[str, PartConfig] = field(default_factory=dict)
    online: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for kind in self.fractions:
            if kind not in KINDS:
                raise ValueError(f"fractions are of {', '.join(KINDS)}, not of {kind!r}{nearest(kind, KINDS)}")
        if not math.isclose(sum(self.fractions.values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"the fractions must sum to 1, got {self.fractions}")
        for kind, settings in self.parts.items():
            if kind not in self.fractions or settings.kind != kind:
                raise ValueError(f"parts.{kind} is of kind {settings.kind}; parts are of {', '.join(self.fractions)}")

    @property
    def weight_exponent(self) -> float:
        """Beta of the importance weights: the largest of the parts."""
        return max(float(part.settings.weight_exponent) for part in parts_of(self) if part.fraction > 0)


SelectorConfig = PartConfig | MixtureConfig
"""How a view of the replay draws."""


@dataclass(frozen=True)
class SelectorKind:
    """One way to draw."""

    config: type  # of its settings, with a `kind` of its own
    make: Callable[[ChunkStore, Any], Selector]  # imports what it needs when it is called
    step_bytes: int = 0  # memory per step of capacity
    takes_priorities: bool = False  # whether it is of no use without priorities
    is_queue: bool = False  # whether it takes every start once, and is then empty, instead of drawing by a density


def _uniform(store: ChunkStore, config: UniformConfig) -> Selector:
    from actors.replay.draw.selectors import UniformSelector

    return UniformSelector(store)


def _prioritized(store: ChunkStore, config: PrioritizedConfig) -> Selector:
    from actors.replay.draw.prioritized import PrioritizedSelector

    return PrioritizedSelector(store, config.exponent)


def _recency(store: ChunkStore, config: RecencyConfig) -> Selector:
    from actors.replay.draw.prioritized import RecencySelector

    return RecencySelector(store, config.exponent)


def _fifo(store: ChunkStore, config: FifoConfig) -> Selector:
    from actors.replay.draw.queues import QueueSelector

    return QueueSelector(store)


def _oldest(store: ChunkStore, config: OldestConfig) -> Selector:
    from actors.replay.draw.turns import TurnSelector

    return TurnSelector(store)


KINDS: dict[str, SelectorKind] = {
    "uniform": SelectorKind(UniformConfig, _uniform),
    "prioritized": SelectorKind(PrioritizedConfig, _prioritized, TREE_BYTES, takes_priorities=True),
    "recency": SelectorKind(RecencyConfig, _recency, TREE_BYTES),
    "fifo": SelectorKind(FifoConfig, _fifo, is_queue=True),
    "oldest": SelectorKind(OldestConfig, _oldest),
}
"""Every way to draw by its kind; a mixture is made of these."""


@dataclass(frozen=True)
class Part:
    """A component of a selector."""

    kind: str
    fraction: float
    settings: PartConfig


def parts_of(config: SelectorConfig) -> list[Part]:
    """The components K: uniform, perhaps at fraction 0, and the others of positive fraction, queues last."""
    fractions: Mapping[str, float]
    settings: Mapping[str, PartConfig]
    if isinstance(config, MixtureConfig):
        fractions, settings = config.fractions, config.parts
    else:
        fractions, settings = {config.kind: 1.0}, {config.kind: config}
    kinds = [kind for kind in KINDS if kind == "uniform" or fractions.get(kind, 0.0) > 0]
    return [
        Part(kind, fractions.get(kind, 0.0), settings.get(kind) or KINDS[kind].config())
        for kind in sorted(kinds, key=lambda kind: KINDS[kind].is_queue)
    ]


def takes_priorities(config: SelectorConfig) -> bool:
    """Whether some component is of no use without priorities."""
    return any(KINDS[part.kind].takes_priorities for part in parts_of(config))


def selector_bytes(config: SelectorConfig) -> int:
    """Memory per step of capacity."""
    return sum(KINDS[part.kind].step_bytes for part in parts_of(config))
