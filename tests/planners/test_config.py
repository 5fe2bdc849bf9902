from typing import Any, get_args

import pytest

from planners.config import CemConfig, IcemConfig, MctsConfig, MppiConfig, PlannerConfig, RandomShootingConfig
from planners.constraint_config import ConstraintConfig, GuardConfig
from planners.risk_config import CvarRisk, EntropicRisk, MeanRisk, MeanStdRisk, VarRisk


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (IcemConfig, "method", "simulated_annealing"),
        (MppiConfig, "method", "cem"),
        (CemConfig, "execute", "worst"),
        (RandomShootingConfig, "propagation", "ts2"),
        (RandomShootingConfig, "precision", "fp8"),
        (RandomShootingConfig, "horizon", 0),
        (RandomShootingConfig, "population", 0),
        (RandomShootingConfig, "gamma", 1.1),
        (RandomShootingConfig, "smoothness", -0.1),
        (CemConfig, "rescore_particles", 0),
        (MeanRisk, "part", "total"),
        (MeanStdRisk, "weight", -0.5),
        (VarRisk, "alpha", 0.0),
        (CvarRisk, "alpha", 1.5),
        (EntropicRisk, "theta", 0.0),
        (ConstraintConfig, "form", "sometimes"),
        (ConstraintConfig, "limit", -0.1),
        (GuardConfig, "limit", -0.1),
        (GuardConfig, "weight", -1.0),
        (RandomShootingConfig, "particles", 0),
        (RandomShootingConfig, "threads", 0),
        (MppiConfig, "iterations", 0),
        (MppiConfig, "init_std", 0.0),
        (MppiConfig, "temperature", 0.0),
        (CemConfig, "elites", 201),
        (IcemConfig, "elites", 201),
        (CemConfig, "momentum", 1.0),
        (CemConfig, "min_std", float("nan")),
        (CemConfig, "truncate", 1),
        (IcemConfig, "noise_beta", -1.0),
        (IcemConfig, "population_decay", 0.5),
        (IcemConfig, "keep_fraction", 1.5),
        (MctsConfig, "selection", "ucb"),
        (MctsConfig, "simulations", 0),
        (MctsConfig, "sampled_actions", 0),
        (MctsConfig, "max_considered", 0),
        (MctsConfig, "max_depth", -1),
        (MctsConfig, "c1", -0.5),
        (MctsConfig, "c2", 0.0),
        (MctsConfig, "dirichlet_alpha", 0.0),
        (MctsConfig, "dirichlet_fraction", 1.5),
        (MctsConfig, "gumbel_scale", float("inf")),
        (MctsConfig, "value_scale", -1.0),
        (MctsConfig, "maxvisit_init", float("nan")),
        (MctsConfig, "normalisation", "all"),
        (MctsConfig, "proposal_temperature", 0.0),
        (MctsConfig, "max_value", -1.0),
        (MctsConfig, "min_value", 1.0),
        (MctsConfig, "min_range", 0.0),
        (MctsConfig, "gamma", -0.1),
        (MctsConfig, "threads", 0),
    ],
)
def test_refuses_a_bad_value_and_names_it(config: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        config(**{field: value})


def test_the_temperature_falls_with_training() -> None:
    config = MctsConfig(action_temperature=((0, 1.0), (500, 0.5), (750, 0.25)))
    found = [config.temperature_at(step) for step in (0, 499, 500, 749, 750, 10_000)]
    assert found == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert MctsConfig().temperature_at(7) == 0.0
    for wrong in ((), ((5, 1.0),), ((0, 1.0), (7, 0.5), (5, 0.25))):
        with pytest.raises(ValueError, match="action_temperature must begin with step 0 and ascend, got"):
            MctsConfig(action_temperature=wrong)
    with pytest.raises(ValueError, match=r"must be at least 0, got -0\.5"):
        MctsConfig(action_temperature=((0, -0.5),))


def test_no_more_ids_are_drawn_than_there_are() -> None:
    assert MctsConfig().drawn_ids(3) is None
    assert MctsConfig(sampled_actions=3).drawn_ids(3) == 3
    with pytest.raises(ValueError, match="sampled_actions must be at most the number of actions 3, got 4"):
        MctsConfig(sampled_actions=4).drawn_ids(3)


def test_every_method_has_a_name_of_its_own_and_valid_defaults() -> None:
    names = [member().method for member in get_args(PlannerConfig)]
    assert names == ["icem", "cem", "mppi", "random_shooting", "mcts"]


def test_a_method_has_its_own_fields_only() -> None:
    with pytest.raises(TypeError, match="elites"):
        MppiConfig(elites=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="horizon"):
        MctsConfig(horizon=3)  # type: ignore[call-arg]
