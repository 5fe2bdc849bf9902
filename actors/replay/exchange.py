"""Whether an algorithm and the replay fit: what a selector needs, and what an algorithm gives."""

from __future__ import annotations

from actors.reanalyze_config import REANALYZE, ReanalyzeConfig
from actors.replay.config import TRAIN, ReplayConfig
from actors.replay.draw.kinds import takes_priorities
from learner.algorithms.base import Exchange
from learner.learner_config import LearnerConfig


def check_exchange(
    algorithm: str,
    exchange: Exchange,
    replay: ReplayConfig,
    learner: LearnerConfig,
    reanalyze: ReanalyzeConfig | None = None,
) -> None:
    """Refuse settings that would be accepted and have no effect.

    Args:
        algorithm: Its name.
        exchange: What it gives and needs.
        replay: How the views draw.
        learner: How batches are cut.
        reanalyze: What becomes of stored targets, None for nothing.

    Raises:
        ValueError: A view needs priorities that the algorithm does not give, or importance weights that it does not
            apply, or the algorithm needs whole batches and they are cut, or targets are to be made anew and it has
            none.
    """
    gives = f"it gives: {', '.join(sorted(exchange.gives)) or 'nothing'}"
    for view, selector in replay.selectors.items():
        key = {TRAIN: "replay.selector", REANALYZE: "reanalyze.selector"}.get(view, f"replay.views.{view}")
        if takes_priorities(selector) and "priorities" not in exchange.gives:
            raise ValueError(
                f"{key}.kind={selector.kind} needs priorities, which {algorithm} does not give ({gives}); use uniform"
            )
    if reanalyze is not None and reanalyze.fraction > 0 and "targets" not in exchange.gives:
        raise ValueError(
            f"reanalyze.fraction={reanalyze.fraction:g} needs targets that can be made anew, which {algorithm} does "
            f"not give ({gives}); set it to 0"
        )
    if replay.selector.weight_exponent > 0 and not exchange.weights:
        raise ValueError(
            f"replay.selector.kind={replay.selector.kind} has weight_exponent {replay.selector.weight_exponent:g}, "
            f"but {algorithm} does not weight its losses; set it to 0"
        )
    if exchange.whole_batches and learner.minibatches > 1:
        raise ValueError(
            f"{algorithm} needs whole batches, but learner.minibatches={learner.minibatches} cuts them; set it to 1"
        )
