"""The planner of a configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planners.base import Plannable, Planner
from planners.config import EliteConfig, MctsConfig, PlannerConfig
from planners.sampling import SamplingPlanner


def make_planner(
    config: PlannerConfig, model: Plannable, low: NDArray[np.float32], high: NDArray[np.float32]
) -> Planner:
    """The planner that `config` describes, over a model.

    Args:
        config: The method and its numbers.
        model: What is searched.
        low: [A] lower bounds of the action as the model takes it.
        high: [A] upper bounds.

    Raises:
        ValueError: The model has not what the method needs, or the box does not fit.
    """
    match config:
        case MctsConfig():
            from planners.tree import TreePlanner  # imports torch, which the others do not need

            return TreePlanner(config, model.tree(config))
        case _:
            second = None
            if isinstance(config, EliteConfig) and config.rescore_particles is not None:
                second = model.evaluator(replace(config, particles=config.rescore_particles))
            return SamplingPlanner(config, low, high, model.evaluator(config), rescore=second)
