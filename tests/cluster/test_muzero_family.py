"""The MuZero family in a run: what its parts are made of, and what is refused in one line."""

from __future__ import annotations

import pytest

from cluster import build
from cluster.config import RunConfig, resolve
from learner.algorithms.muzero import MuZeroAlgorithm
from learner.algorithms.muzero_config import MuZeroConfig
from learner.searched import SEARCH_ACTIONS, SEARCH_POLICY
from planners.config import MctsConfig

CARTPOLE = "gym:CartPole-v1"


def config_of(algo: str, env: str = CARTPOLE, *overrides: str, scale: str = "debug") -> RunConfig:
    return resolve(algo, env, scale, overrides=["cluster.mode=local", *overrides])


def test_the_preset_has_the_values_of_the_paper() -> None:
    tree = config_of("muzero")  # the scale for checks changes sizes alone
    own, planner = tree.algorithm, tree.planner
    assert isinstance(own, MuZeroConfig)
    assert isinstance(planner, MctsConfig)
    assert (planner.selection, planner.c1, planner.c2, planner.normalisation) == ("puct", 1.25, 19652.0, "tree")
    assert (planner.dirichlet_alpha, planner.dirichlet_fraction) == (0.25, 0.25)
    assert (own.unroll_steps, own.td_steps, own.discount) == (5, 5, 0.997)
    assert build.family(tree).serving == "planner"


@pytest.mark.parametrize("kind", ["prioritized", "uniform"])
def test_priorities_are_made_where_they_are_drawn_by(kind: str) -> None:
    config = config_of("muzero", CARTPOLE, f"replay.selector.kind={kind}")
    algorithm, policy = build.algorithm(config), build.policy(config)
    assert isinstance(algorithm, MuZeroAlgorithm)
    assert algorithm._gives_priorities == policy._gives_priorities == (kind == "prioritized")  # type: ignore[attr-defined]


def test_drawn_actions_are_stored_with_their_step() -> None:
    extras = build.policy(config_of("sampled_muzero", "nav3d")).extras
    assert (extras[SEARCH_POLICY].shape, extras[SEARCH_ACTIONS].shape) == ((3,), (3, 3))
    extras = build.policy(config_of("muzero", CARTPOLE, "planner.sampled_actions=1")).extras
    assert (extras[SEARCH_ACTIONS].shape, extras[SEARCH_ACTIONS].dtype) == ((1,), "int64")


@pytest.mark.parametrize(
    ("algo", "env", "override", "message"),
    [
        (
            "muzero",
            "nav3d",
            "seed=0",
            "muzero needs discrete actions, and those of nav3d are a box: use sampled_muzero",
        ),
        ("efficientzero", "nav3d", "seed=0", "are a box: use sampled_muzero"),
        ("muzero", CARTPOLE, "planner.simulations=0", "planner.simulations must be at least 1, got 0"),
        ("muzero", CARTPOLE, "planner.sampled_actions=3", "sampled_actions must be at most .* 2, got 3"),
        ("muzero", CARTPOLE, "planner.method=cem", "planner.method must be mcts, got cem"),
        ("muzero", CARTPOLE, "algorithm.value.bins=2", "algorithm.value.bins must be at least 3, got 2"),
        ("muzero", CARTPOLE, "algorithm.value.limit=0", "algorithm.value.limit"),
        ("muzero", CARTPOLE, "learner.sequence_length=5", "at least algorithm.unroll_steps [+] 1 = 6, got 5"),
        ("muzero", CARTPOLE, "algorithm.observation_keys=[pixels]", "unknown observation key 'pixels'"),
    ],
)
def test_refuses_in_one_line(algo: str, env: str, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build.check(config_of(algo, env, override))
    assert "\n" not in str(caught.value)
