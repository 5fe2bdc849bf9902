from typing import Any, get_args

import numpy as np
import pytest

from planners.config import MctsConfig, PlannerConfig, RandomShootingConfig, SequenceConfig
from planners.factory import make_planner
from tests.planners.test_tree import Lock

BOX = np.ones(4, np.float32)


class Model:
    """Searched either way; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def evaluator(self, config: SequenceConfig) -> Any:
        self.asked.append(config)
        return lambda observation, actions, seeds: np.zeros((*actions.shape[:2], 1), np.float32)

    def tree(self, config: MctsConfig) -> Lock:
        self.asked.append(config)
        return Lock([1000])


@pytest.mark.parametrize("method", get_args(PlannerConfig))
def test_every_method_makes_a_planner_of_its_configuration(method: type[Any]) -> None:
    model, config = Model(), method()
    planner = make_planner(config, model, -BOX, BOX)
    assert model.asked == [config]
    assert planner.config is config  # type: ignore[attr-defined]
    assert planner.skip(planner.initial(np.arange(3, dtype=np.uint64))).step.tolist() == [1, 1, 1]


def test_a_box_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="low"):
        make_planner(RandomShootingConfig(), Model(), BOX, -BOX)
