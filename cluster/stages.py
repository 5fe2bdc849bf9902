"""The stages of a run: what it does one after the other, and where in them it is.

A family of algorithms returns its stages, `scheduled` by default; `cluster.local` and `cluster.launch` run the same
list. A checkpoint holds the stage and, with the counts of steps and updates when it began, the place in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from cluster.role_config import RoleConfig
from envs.numbers import PositiveInt, check_fields
from learner.algorithms.base import Part

if TYPE_CHECKING:
    from cluster.config import RunConfig


@dataclass(frozen=True)
class Interleave:
    """Collect and train in turns as the limiter allows, until the run has `schedule.total_steps` environment steps."""


@dataclass(frozen=True)
class Collect:
    """Collect and train on nothing. The limiter counts these steps, and makes nobody wait.

    Args:
        steps: Environment steps.
    """

    steps: PositiveInt

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Fit:
    """Train on what the replay holds and collect nothing.

    The limiter does not count these updates: an `Interleave` after it keeps its ratio of trained to inserted steps.

    Args:
        updates: Updates of the algorithm.
        part: What is trained, None for everything.
    """

    updates: PositiveInt
    part: Part | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Evolve:
    """Improve parameters by evaluations alone, as the controller of World Models (Ha and Schmidhuber 2018) by CMA-ES.

    Not run yet. A generation asks the algorithm for candidates (`ask() -> list of weights`), evaluates each on the
    seeds of the generation, in the simulator or in the world model, and tells it the returns (`tell(returns)`). An
    evaluation is an `Evaluator` with the candidate's weights: in one process one after the other, on Ray as leases to
    evaluators, where a lease that died is issued again. The position is the number of generations that were told; the
    algorithm's state holds its distribution, so a generation that was cut short is asked for again.

    Args:
        generations: How often candidates are asked for and told their returns.
    """

    generations: PositiveInt

    def __post_init__(self) -> None:
        check_fields(self)


Stage: TypeAlias = Interleave | Collect | Fit | Evolve


def scheduled(config: RunConfig) -> Sequence[Stage]:
    """The stages that `schedule` asks for: `[Interleave()]` unless it says more.

    `from_replay` or `fit_updates` split collecting from training: `[Collect(total_steps), Fit(fit_updates)]`, without
    the first from a stored replay. `pretrain_updates` put a `Fit` of the world model between the first data and the
    rest: `replay.limiter.min_size` steps, or more until some stream must hold a whole sequence.

    Raises:
        ValueError: The number of updates is neither given nor follows from the limiter.
    """
    schedule = config.schedule
    split = schedule.from_replay is not None or schedule.fit_updates > 0
    stages: list[Stage] = []
    if schedule.from_replay is None and split:
        stages.append(Collect(schedule.total_steps))
    elif schedule.from_replay is None and schedule.pretrain_updates > 0:
        stages.append(Collect(max(config.replay.limiter.min_size, _sequence_steps(config))))
    if schedule.pretrain_updates > 0:
        stages.append(Fit(schedule.pretrain_updates, "world_model"))
    return [*stages, Fit(schedule.fit_updates or _usual_updates(config)) if split else Interleave()]


def _sequence_steps(config: RunConfig) -> int:
    """Environment steps of which some stream holds a sequence, however they are spread over the streams."""
    section = config.roles["rollout"]
    assert isinstance(section, RoleConfig)
    streams = section.count * config.actors.envs_per_actor
    blocks = math.ceil(config.replayed_length / config.actors.block_steps)
    return streams * (blocks - 1) * config.actors.block_steps + 1


def _usual_updates(config: RunConfig) -> int:
    """Updates of an interleaved run of this schedule."""
    ratio = config.replay.limiter.samples_per_insert
    if ratio is None:
        raise ValueError("schedule.fit_updates must be set: replay.limiter.samples_per_insert leaves it open")
    batches = config.schedule.total_steps * ratio / (config.learner.batch_size * config.learner.sequence_length)
    return max(1, math.floor(batches)) * config.learner.updates_per_step


class StageCursor:
    """Where in its stages a run is. It changes stage by `advance` alone; the rest follows from the run's counts.

    Args:
        stages: What the run does, at least one stage.
        total_steps: Environment steps at which an `Interleave` ends.
        state: Of the run that goes on, None to start.

    Raises:
        ValueError: A stage cannot be run, or the run was in another one.
    """

    def __init__(self, stages: Sequence[Stage], total_steps: int, state: Mapping[str, Any] | None = None) -> None:
        for stage in stages:
            if isinstance(stage, Evolve):
                raise ValueError(f"{stage} cannot be run yet: a run does Interleave, Collect and Fit")
        self.stages = tuple(stages)
        self._total_steps = total_steps
        self.index = 0
        self._steps = self._updates = 0  # of the run when the stage began
        self._fitted = 0  # updates of the Fit stages before
        if state is not None:
            self.index, self._steps, self._updates, self._fitted = (
                int(state[name]) for name in ("index", "steps", "updates", "fitted")
            )
            names = [_kind(stage) for stage in stages]
            if names[self.index : self.index + 1] != [state["stage"]]:
                was = f"stage {self.index + 1}, {state['stage']}"
                raise ValueError(f"the run is in {was}, and the configuration's stages are {', '.join(names)}")

    @property
    def stage(self) -> Stage:
        """What the run does now, or did last."""
        return self.stages[self.index]

    @property
    def last(self) -> bool:
        """Whether no other stage follows."""
        return self.index + 1 == len(self.stages)

    @property
    def collects(self) -> bool:
        """Whether this stage or a later one takes steps in the environment."""
        return any(not isinstance(stage, Fit) for stage in self.stages[self.index :])

    def progress(self, steps: int, updates: int) -> tuple[int, int]:
        """How far the stage is and where it ends: in updates for a `Fit`, in environment steps for the others.

        Args:
            steps: Environment steps of the run.
            updates: Updates of the run.
        """
        match self.stage:
            case Fit(target):
                return updates - self._updates, target
            case Collect(target):
                return steps - self._steps, target
            case _:
                return steps, self._total_steps

    def left(self, steps: int, updates: int) -> int:
        """Steps or updates until the stage ends, 0 when it has."""
        done, target = self.progress(steps, updates)
        return max(0, target - done)

    def fitted(self, updates: int) -> int:
        """Those of the run's updates that were made in `Fit` stages."""
        made = self._fitted + (updates - self._updates if isinstance(self.stage, Fit) else 0)
        return min(made, updates)  # a learner that died may have gone back to an earlier stage

    def advance(self, steps: int, updates: int) -> bool:
        """Go on to the next stage if this one has ended and another follows; whether it did."""
        if self.last or self.left(steps, updates) > 0:
            return False
        self._fitted = self.fitted(updates)
        self.index, self._steps, self._updates = self.index + 1, steps, updates
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "stage": _kind(self.stage),
            "index": self.index,
            "steps": self._steps,
            "updates": self._updates,
            "fitted": self._fitted,
        }


def _kind(stage: Stage) -> str:
    """What tells stages apart: how long one lasts may change while it goes on, what it does may not."""
    part = f" of the {stage.part}" if isinstance(stage, Fit) and stage.part is not None else ""
    return f"{type(stage).__name__}{part}"
