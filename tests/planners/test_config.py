from typing import Any

import pytest

from planners.config import PlannerConfig, TreeConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "simulated_annealing"),
        ("execute", "worst"),
        ("propagation", "ts2"),
        ("objective", "cvar99"),
        ("precision", "fp8"),
        ("horizon", 0),
        ("population", 0),
        ("elites", 201),
        ("iterations", 0),
        ("momentum", 1.0),
        ("noise_beta", -1.0),
        ("population_decay", 0.5),
        ("keep_fraction", 1.5),
        ("init_std", 0.0),
        ("min_std", float("nan")),
        ("temperature", 0.0),
        ("gamma", 1.1),
        ("risk_lambda", -0.1),
        ("particles", 0),
        ("threads", 0),
    ],
)
def test_refuses_a_bad_value_and_names_it(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        PlannerConfig(**{field: value})


def test_the_defaults_are_valid() -> None:
    assert PlannerConfig().method == "icem"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("selection", "ucb"),
        ("simulations", 0),
        ("sampled_actions", 0),
        ("max_considered", 0),
        ("max_depth", -1),
        ("c1", -0.5),
        ("c2", 0.0),
        ("dirichlet_alpha", 0.0),
        ("dirichlet_fraction", 1.5),
        ("gumbel_scale", float("inf")),
        ("value_scale", -1.0),
        ("maxvisit_init", float("nan")),
    ],
)
def test_refuses_a_bad_tree_and_names_it(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"tree\.{field}.*{value}"):
        TreeConfig(**{field: value})
