"""What selectors need against what algorithms give, when a configuration is resolved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.reanalyze_config import ReanalyzeConfig
from actors.replay.config import ReplayConfig
from actors.replay.draw.kinds import MixtureConfig, PrioritizedConfig, RecencyConfig
from actors.replay.exchange import check_exchange
from cluster.config import resolve
from learner.algorithms.base import Exchange
from learner.learner_config import LearnerConfig

PRIORITIZED = ReplayConfig(selector=PrioritizedConfig())
EVERYTHING = Exchange(gives=frozenset({"priorities", "writebacks"}), weights=True)


def test_an_algorithm_that_gives_all_takes_any_selector() -> None:
    for selector in (PrioritizedConfig(), RecencyConfig(weight_exponent=1.0), MixtureConfig(online=True)):
        check_exchange("mine", EVERYTHING, ReplayConfig(selector=selector), LearnerConfig(minibatches=4))


def test_priorities_that_nobody_gives_are_refused_by_view() -> None:
    message = r"replay.selector.kind=prioritized needs priorities, which mine does not give .it gives: writebacks.; use"
    with pytest.raises(ValueError, match=message):
        check_exchange("mine", Exchange(gives=frozenset({"writebacks"}), weights=True), PRIORITIZED, LearnerConfig())
    mixed = ReplayConfig(views={"other": MixtureConfig(fractions={"uniform": 0.5, "prioritized": 0.5})})
    with pytest.raises(ValueError, match=r"replay.views.other.kind=mixture needs priorities.*it gives: nothing"):
        check_exchange("mine", Exchange(), mixed, LearnerConfig())


def test_weights_that_nobody_applies_are_refused() -> None:
    gives = replace(EVERYTHING, weights=False)
    with pytest.raises(ValueError, match=r"has weight_exponent 0.4, but mine does not weight its losses; set it to 0"):
        check_exchange("mine", gives, PRIORITIZED, LearnerConfig())
    check_exchange("mine", gives, ReplayConfig(selector=PrioritizedConfig(weight_exponent=0.0)), LearnerConfig())


def test_targets_that_nobody_gives_are_refused() -> None:
    again = ReanalyzeConfig(fraction=0.5)
    message = r"reanalyze.fraction=0.5 needs targets that can be made anew, which mine does not give .it gives: prior"
    with pytest.raises(ValueError, match=message):
        check_exchange("mine", EVERYTHING, ReplayConfig(), LearnerConfig(), again)
    check_exchange("mine", EVERYTHING, ReplayConfig(), LearnerConfig(), ReanalyzeConfig())
    for algo in ("pets", "dreamer_v3"):
        with pytest.raises(ValueError, match=f"which {algo} does not give"):
            resolve(algo, "nav3d", "debug", overrides=["reanalyze.fraction=0.5"])
    with pytest.raises(ValueError, match=r"replay.views.reanalyze is what reanalyze.selector says: leave it out"):
        resolve("muzero", "gym:CartPole-v1", "debug", overrides=["replay.views={reanalyze: {kind: uniform}}"])
    priorities = ["reanalyze.fraction=1", "reanalyze.selector.kind=prioritized", "replay.selector.kind=uniform"]
    assert resolve("muzero", "gym:CartPole-v1", "debug", overrides=priorities).viewed_replay.takes_priorities


def test_batches_that_must_be_whole_are_not_cut() -> None:
    whole = replace(EVERYTHING, whole_batches=True)
    check_exchange("mine", whole, ReplayConfig(), LearnerConfig())
    with pytest.raises(ValueError, match=r"mine needs whole batches, but learner.minibatches=4 cuts them"):
        check_exchange("mine", whole, ReplayConfig(), LearnerConfig(minibatches=4))


@pytest.mark.parametrize("algo", ["planet", "dreamer_v1", "dreamer_v2", "dreamer_v3"])
def test_the_dreamer_family_gives_no_priorities(algo: str) -> None:
    with pytest.raises(ValueError, match=f"needs priorities, which {algo} does not give"):
        resolve(algo, "nav3d", "debug", overrides=["replay.selector.kind=prioritized"])


def test_pets_gives_priorities() -> None:
    assert resolve("pets", "nav3d", "debug", overrides=["replay.selector.kind=prioritized"]).replay.takes_priorities
